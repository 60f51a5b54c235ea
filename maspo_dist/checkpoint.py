"""Checkpoints: complete or absent, recognised when damaged.

    checkpoints/.part-000040/   being written: learner/, state.json, config.yaml
                 │ every file fsynced, manifest.json (sizes, SHA-256) written last
                 ▼ renamed, read back, compared with the manifest
    checkpoints/step-000040/
    checkpoints/scores.json     held-out scores of the checkpoints there are
    checkpoints/best.json       which one scored highest, where one has a score

Older ones go only after the new one is proven; the one with the highest score stays as long as it is that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maspo_dist.data.cursor import CursorState
from maspo_dist.errors import ConfigError

#: The learners' part of a checkpoint.
LEARNER_FOLDER = "learner"

_MANIFEST = "manifest.json"
_STATE = "state.json"
_CONFIG = "config.yaml"
_FORMAT = 1
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where the controller stood after `step`: `next_group` is the first group not yet consumed, `cursor`
    the place of its prompt, so that groups that were in flight are drawn again under the same number.
    """

    step: int
    policy_version: int
    next_group: int
    cursor: CursorState


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

    def commit(self, part: Path, state: RunState, keep: int, config_yaml: str | None = None) -> Path:
        """Completes what `begin` started, proves it, then removes all but the newest `keep` and the best.

        Raises OSError when the disk does, or when what is read back is not what was written; the new
        checkpoint is then gone and the older ones are all there.
        """
        final = self.path(state.step)
        try:
            (part / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            if config_yaml is not None:
                (part / _CONFIG).write_text(config_yaml, encoding="utf-8")
            _write_manifest(part)
            if final.exists() and damage_of(final) is None:
                # Saved at this step before, with the same weights: never without either in between.
                shutil.rmtree(part)
                return final
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            _sync(self._folder)
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


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file of the manifest must have its size and SHA-256,
    and so must the manifest's own list.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["format"] != _FORMAT or manifest["sha256"] != _sha256_of_list(files):
            return f"{_MANIFEST} does not match its checksum"
        for name, expected in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
            if _sha256(file) != expected["sha256"]:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} cannot be read"
    return None


def read_state(path: Path) -> RunState:
    """The controller's state in a good checkpoint. Raises ConfigError where it cannot be read."""
    try:
        values = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}") from None
    return RunState(**_fields(path, RunState, values, cursor=CursorState))


def read_config_yaml(path: Path) -> str | None:
    """The configuration that a checkpoint was saved under; None where it holds none."""
    try:
        return (path / _CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _fields(path: Path, record: type, values: Any, **nested: type) -> dict[str, Any]:
    """`values` as the fields of `record`, none missing and none unknown."""
    known = {field.name for field in dataclasses.fields(record)}
    given = set(values) if isinstance(values, dict) else set()
    if given != known:
        differing = ", ".join(sorted(given ^ known))
        raise ConfigError(
            f"checkpoint {path} was written by another version of maspo_dist: its {record.__name__} differs in "
            f"{differing}; resume it with that version, or export it and start a new run"
        )
    return {
        name: nested[name](**_fields(path, nested[name], value)) if name in nested else value
        for name, value in values.items()
    }


def _write_manifest(part: Path) -> None:
    files = {}
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        files[str(path.relative_to(part))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        _sync(path)
    manifest = {"format": _FORMAT, "sha256": _sha256_of_list(files), "files": files}
    (part / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(part / _MANIFEST)
    for folder in (*_folders(part), part):
        _sync(folder)


def _folders(part: Path) -> Iterator[Path]:
    yield from (path for path in part.rglob("*") if path.is_dir())


def _replace(path: Path, content: Mapping[str, object]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sha256_of_list(files: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        # What is read back shall come from the disk, not from memory, where the system lets go of it.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
