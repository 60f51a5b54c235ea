"""Checkpoints: complete or absent, recognised when damaged.

    checkpoints/.part-000040/   being written: learner/, state.json, finished_groups.pickle, config.yaml
                 │ every file fsynced, manifest.json (sizes, SHA-256) written last
                 ▼ renamed, read back, compared with the manifest
    checkpoints/step-000040/
    checkpoints/scores.json     held-out scores of the checkpoints there are
    checkpoints/best.json       which one scored highest, where one has a score

Older ones go only after the new one is proven; the one with the highest score stays as long as it is that.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maspo_dist.data.cursor import CursorState
from maspo_dist.errors import ConfigError
from maspo_dist.runs.manifest import damage_of, sync, write_manifest
from maspo_dist.types import DropReason, LossReason, RolloutGroup, ScoredGroup

#: The learners' part of a checkpoint.
LEARNER_FOLDER = "learner"
#: The configuration it was saved under.
CONFIG_FILE = "config.yaml"

_STATE = "state.json"
_FINISHED = "finished_groups.pickle"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingGroup:
    """A group that was admitted and not yet consumed; its prompt is the one at `drawn_at`. `lost` says why it is not
    to be sampled again, if so.
    """

    group_id: int
    drawn_at: CursorState
    refilled: bool
    lost: LossReason | DropReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedGroup:
    """A pending group that was sampled and scored; `dropped` says why it will not train, if so."""

    scored: ScoredGroup
    body: RolloutGroup
    dropped: DropReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The generation side: the next group to admit, where its prompt is drawn, and what was admitted before.

    Pending groups without a result are sampled again under the same number and seed.
    """

    next_group: int
    cursor: CursorState
    pending: tuple[PendingGroup, ...] = ()
    refills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stood after `step`."""

    step: int
    policy_version: int
    stream: StreamState


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well a checkpoint did on held-out problems; larger is better. Only equal metrics are compared."""

    metric: str
    score: float


def score_of(metrics: Mapping[str, float | None], keep_best: str) -> Score | None:
    """The score that `checkpoint.keep_best` asks for, out of a step's metrics; None where they hold none.

    auto is the mean of `eval/<name>/avg@<k>` over the held-out sets, none is never a score, anything else
    names a metric.
    """
    if keep_best == "none":
        return None
    names = [name for name in metrics if re.fullmatch(r"eval/.+/avg@\d+", name)] if keep_best == "auto" else [keep_best]
    found = {name: value for name in names if (value := metrics.get(name)) is not None and math.isfinite(value)}
    if not found:
        return None
    metric = next(iter(found)) if len(found) == 1 else f"mean of {', '.join(sorted(found))}"
    return Score(metric=metric, score=sum(found.values()) / len(found))


class CheckpointStore:
    """The checkpoints of one run folder. One process writes; its threads may."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def begin(self, step: int) -> Path:
        """An empty folder to write the learner's state into."""
        part = self._folder / f".part-{step:06d}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def commit(
        self,
        part: Path,
        state: RunState,
        finished: Sequence[FinishedGroup],
        keep: int,
        config_yaml: str | None = None,
    ) -> Path:
        """Completes what `begin` started, proves it, then removes all but the newest `keep` and the best.

        Raises OSError when the disk does, or when what is read back is not what was written; the new
        checkpoint is then gone and the older ones are all there.
        """
        final = self.path(state.step)
        try:
            (part / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            (part / _FINISHED).write_bytes(pickle.dumps(tuple(finished), protocol=pickle.HIGHEST_PROTOCOL))
            if config_yaml is not None:
                (part / CONFIG_FILE).write_text(config_yaml, encoding="utf-8")
            write_manifest(part)
            if final.exists() and damage_of(final) is None:
                # Saved at this step before, with the same weights: never without either in between.
                shutil.rmtree(part)
                return final
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            sync(self._folder)
            if (damage := damage_of(final)) is not None:
                shutil.rmtree(final)
                raise OSError(f"{final} was written but cannot be read back: {damage}")
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        with self._lock:
            self._remove_outdated(state.step, keep)
        return final

    def record_score(self, step: int, score: Score) -> None:
        """Notes how the policy after `step` did; before or after its checkpoint, in any order."""
        with self._lock:
            scores = self._scores() | {step: score}
            self._write_scores(scores)

    def best(self) -> tuple[int, Score] | None:
        """Step and score of the best checkpoint by the newest score's metric; the earlier one of equals."""
        existing = {step for step, _ in self._steps()}
        scored = {step: score for step, score in sorted(self._scores().items()) if step in existing}
        if not scored:
            return None
        metric = scored[max(scored)].metric
        comparable = {step: score for step, score in scored.items() if score.metric == metric}
        step = max(comparable, key=lambda step: (comparable[step].score, -step))
        return step, comparable[step]

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest good checkpoint, and why newer ones were passed over."""
        passed_over: list[str] = []
        for _, path in self._steps():
            damage = damage_of(path)
            if damage is None:
                return path, passed_over
            passed_over.append(f"{path.name}: {damage}")
        return None, passed_over

    def steps(self) -> list[int]:
        """Steps of finished checkpoints, oldest first; they may be damaged."""
        return sorted(step for step, _ in self._steps())

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def rewind(self, step: int) -> list[str]:
        """Makes way for a run that goes on after `step` (−1: from the start): returns what was set aside.

        Unfinished saves go. Newer checkpoints, damaged or of a future that is given up, must not be taken
        for this run's: they are renamed to set-aside-000050 and go once the run has passed their step.
        """
        for leftover in self._folder.glob(".part-*"):
            shutil.rmtree(leftover)
        aside = []
        for number, path in self._steps():
            if number > step:
                target = self._folder / f"set-aside-{number:06d}"
                shutil.rmtree(target, ignore_errors=True)
                path.rename(target)
                aside.append(target.name)
        if aside:
            with self._lock:
                self._write_scores({number: score for number, score in self._scores().items() if number <= step})
        return aside

    def _remove_outdated(self, step: int, keep: int) -> None:
        best = self.best()
        for number, old in self._steps()[keep:]:
            if best is None or number != best[0]:
                shutil.rmtree(old)
        for aside in self._folder.glob("set-aside-*"):
            if int(aside.name.removeprefix("set-aside-")) <= step:
                shutil.rmtree(aside)
        scores = self._scores()
        if scores:
            remaining = {number for number, _ in self._steps()}
            self._write_scores({n: score for n, score in scores.items() if n in remaining or n > step})

    def _scores(self) -> dict[int, Score]:
        """Empty where the file cannot be read: scores only say which checkpoint is kept longer."""
        try:
            rows = json.loads((self._folder / "scores.json").read_text(encoding="utf-8"))
            return {int(step): Score(**row) for step, row in rows.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write_scores(self, scores: Mapping[int, Score]) -> None:
        _replace(self._folder / "scores.json", {str(step): asdict(score) for step, score in scores.items()})
        best = self.best()
        if best is None:
            (self._folder / "best.json").unlink(missing_ok=True)
        else:
            step, score = best
            _replace(self._folder / "best.json", {"checkpoint": self.path(step).name, "step": step, **asdict(score)})

    def _steps(self) -> list[tuple[int, Path]]:
        """Finished checkpoints, newest first."""
        found = [
            (int(match.group(1)), path)
            for path in (self._folder.iterdir() if self._folder.is_dir() else ())
            if (match := re.fullmatch(r"step-(\d{6,})", path.name))
        ]
        return sorted(found, reverse=True)


def read_state(path: Path) -> RunState:
    """The controller's state in a good checkpoint. Raises ConfigError where it cannot be read."""
    try:
        values = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}") from None

    def cursor(value: Any) -> CursorState:
        return CursorState(**_fields(path, CursorState, value))

    def pending(rows: Any) -> tuple[PendingGroup, ...]:
        return tuple(PendingGroup(**_fields(path, PendingGroup, row, drawn_at=cursor)) for row in rows)

    def stream(value: Any) -> StreamState:
        return StreamState(**_fields(path, StreamState, value, cursor=cursor, pending=pending))

    return RunState(**_fields(path, RunState, values, stream=stream))


def read_finished(path: Path) -> tuple[FinishedGroup, ...]:
    """The finished groups in a good checkpoint. Raises ConfigError where they cannot be read."""
    try:
        groups: tuple[FinishedGroup, ...] = pickle.loads((path / _FINISHED).read_bytes())
    except (OSError, ValueError, TypeError, AttributeError, ImportError, pickle.UnpicklingError) as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}") from None
    return groups


def read_config_yaml(path: Path) -> str | None:
    """The configuration that a checkpoint was saved under; None where it holds none."""
    try:
        return (path / CONFIG_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _fields(path: Path, record: type, values: Any, **readers: Callable[[Any], object]) -> dict[str, Any]:
    """`values` as the fields of `record`, none missing and none unknown; those with a reader are read by it."""
    known = {field.name for field in dataclasses.fields(record)}
    given = set(values) if isinstance(values, dict) else set()
    if given != known:
        differing = ", ".join(sorted(given ^ known))
        raise ConfigError(
            f"checkpoint {path} was written by another version of maspo_dist: its {record.__name__} differs in "
            f"{differing}; resume it with that version, or export it and start a new run"
        )
    return {name: readers[name](value) if name in readers else value for name, value in values.items()}


def _replace(path: Path, content: Mapping[str, object]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
