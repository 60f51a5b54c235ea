"""Checkpoints: complete or absent, recognised when damaged.

checkpoints/step-000040/   learner/, state.json, finished_groups.pickle, config.yaml, manifest.json
checkpoints/scores.json    held-out scores of the checkpoints
checkpoints/best.json      the checkpoint with the highest score

Older checkpoints are removed only after the new checkpoint was read back. The checkpoint with the highest score stays
until a better one is saved. Training goes on during most of a save:

save ──► learners write (training waits) ──► hash, fsync, rename, read back, remove older (a thread)
                                                   │ meanwhile the next steps are trained
next save, drain ──────── wait ◄───────────────────┘
"""

import asyncio
import json
import logging
import math
import pickle
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from maspo_dist.config import CheckpointConfig
from maspo_dist.data.cursor import CursorState
from maspo_dist.errors import ConfigError
from maspo_dist.runs.catalogue import held_out_score
from maspo_dist.runs.jsonl import replace_text
from maspo_dist.runs.record_shape import RecordShapeError, dump_records, load_records
from maspo_dist.runs.step_folders import StepFolders, damage_of, sync
from maspo_dist.types import DropReason, FinishedGroup, LossReason, RolloutGroup

logger = logging.getLogger(__name__)

#: The learners' part of a checkpoint.
LEARNER_FOLDER = "learner"
#: The configuration that the checkpoint was saved under.
CONFIG_FILE = "config.yaml"

_STATE = "state.json"
_FINISHED = "finished_groups.pickle"
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingGroup:
    """A group that was admitted and not yet consumed; `lost` is the reason not to sample it again, if there is one."""

    __pydantic_config__ = _STRICT

    group_id: int
    drawn_at: CursorState
    refilled: bool
    lost: LossReason | DropReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The generation side. Pending groups without a result are sampled again with the same number and seed."""

    __pydantic_config__ = _STRICT

    next_group: int
    cursor: CursorState
    pending: tuple[PendingGroup, ...] = ()
    refills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """State of a run after `step`.

    start_gap   mean gap between the logprobs of engines and learner at policy version 0; None where it is not known
    """

    __pydantic_config__ = _STRICT

    step: int
    policy_version: int
    stream: StreamState
    start_gap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The held-out score of a checkpoint; larger is better. Only scores of the same metric are compared."""

    metric: str
    score: float


_STATE_DECODER = TypeAdapter(RunState)
_SCORES_DECODER = TypeAdapter(dict[int, Score])


def score_of(metrics: Mapping[str, float | None], keep_best: str) -> Score | None:
    """The score in a step's metrics that `checkpoint.keep_best` asks for; None if there is no such score.

    auto is the mean of `eval/<name>/avg@<k>` over the sets, none is no score, any other value names a metric.
    """
    names = [keep_best]
    if keep_best == "auto":
        names = [name for name in metrics if (score := held_out_score(name)) and score.measure.startswith("avg@")]
    found = {name: value for name in names if (value := metrics.get(name)) is not None and math.isfinite(value)}
    if not found:
        return None
    metric = next(iter(found)) if len(found) == 1 else f"mean of {', '.join(sorted(found))}"
    return Score(metric=metric, score=sum(found.values()) / len(found))


class CheckpointStore(StepFolders):
    """The checkpoints of one run folder. One process writes; its threads may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._lock = threading.Lock()

    def commit(
        self, part: Path, state: RunState, finished: Sequence[FinishedGroup[RolloutGroup]], keep: int, config_yaml: str
    ) -> Path:
        """Completes what `begin` started, reads it back, then removes all but the newest `keep` and the best.

        Raises OSError when the disk does, or when the checkpoint cannot be read back. Then the new checkpoint is
        removed and all older ones stay. An older checkpoint that cannot be removed stays until a later call.
        """
        files = {
            _STATE: json.dumps(asdict(state)).encode(),
            _FINISHED: dump_records(tuple(finished)),
            CONFIG_FILE: config_yaml.encode(),
        }
        final = self.finish(part, state.step, files)
        with self._lock:
            self._remove_outdated(state.step, keep)
        return final

    def record_score(self, step: int, score: Score) -> None:
        """Notes the score of the policy after `step`, before or after its checkpoint is saved.

        A score that the disk refuses is lost with a warning: it only decides which checkpoint is kept longer.
        """
        with self._lock, _warning(f"the score of step {step} is not kept"):
            self._write_scores(self._scores() | {step: score})

    def best(self) -> tuple[int, Score] | None:
        """Step and score of the best checkpoint by the newest score's metric; the earliest of equals."""
        scores, existing = self._scores(), set(self.steps())
        scored = [(step, scores[step]) for step in sorted(scores) if step in existing]
        comparable = [(step, score) for step, score in scored if score.metric == scored[-1][1].metric]
        return max(comparable, key=lambda found: found[1].score, default=None)

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest undamaged checkpoint, and the damage of each newer checkpoint."""
        damaged: list[str] = []
        for path in map(self.path, reversed(self.steps())):
            if (damage := damage_of(path)) is None:
                return path, damaged
            damaged.append(f"{path.name}: {damage}")
        return None, damaged

    def rewind(self, step: int) -> list[str]:
        """Prepares for a run that resumes after `step` (−1: from the start). Unfinished saves are removed.

        Newer checkpoints are damaged, or of steps that the run trains again: they are renamed to set-aside-000050, and
        removed once the run has passed their step. Returns the new names.
        """
        self.remove_unfinished()
        aside = []
        for number in reversed(self.steps()):
            if number > step:
                target = self.folder / f"set-aside-{number:06d}"
                shutil.rmtree(target, ignore_errors=True)
                self.path(number).rename(target)
                aside.append(target.name)
        if aside:
            with self._lock:
                self._write_scores({n: score for n, score in self._scores().items() if n <= step})
        return aside

    def _remove_outdated(self, step: int, keep: int) -> None:
        best = self.best()
        older = [self.path(number) for number in self.steps()[:-keep] if best is None or number != best[0]]
        asides = self.folder.glob("set-aside-*")
        passed = [path for path in asides if int(path.name.removeprefix("set-aside-")) <= step]
        for path in (*older, *passed):
            with _warning(f"{path} cannot be removed"):
                shutil.rmtree(path)
        remaining = set(self.steps())
        if scores := self._scores():
            with _warning("scores.json cannot be written"):
                self._write_scores({n: score for n, score in scores.items() if n in remaining or n > step})

    def _scores(self) -> dict[int, Score]:
        """Empty if the file cannot be read: scores only decide which checkpoint is kept longer."""
        try:
            return _SCORES_DECODER.validate_json((self.folder / "scores.json").read_bytes())
        except (OSError, ValidationError):
            return {}

    def _write_scores(self, scores: Mapping[int, Score]) -> None:
        self._replace("scores.json", {str(step): asdict(score) for step, score in scores.items()})
        if best := self.best():
            self._replace("best.json", {"checkpoint": self.path(best[0]).name, "step": best[0], **asdict(best[1])})
        else:
            (self.folder / "best.json").unlink(missing_ok=True)

    def _replace(self, name: str, content: Mapping[str, object]) -> None:
        replace_text(self.folder / name, json.dumps(content, indent=1))
        sync(self.folder / name)


class CheckpointWriter:
    """Writes the checkpoints of a run, at most one at a time. All methods belong to one event loop.

    A failed write (a full disk) loses that checkpoint, not the run: `on_failure(step, what happened)` is called.

    saved_step   step of the newest checkpoint; None before the first
    begun_s      when the last save began, an event loop time
    """

    def __init__(
        self, store: CheckpointStore, config: CheckpointConfig, config_yaml: str, on_failure: Callable[[int, str], None]
    ) -> None:
        self._store = store
        self._config = config
        self._config_yaml = config_yaml
        self._on_failure = on_failure
        self._committing: asyncio.Task[None] | None = None
        self._is_slow = False
        self.saved_step: int | None = None
        self.begun_s = 0.0

    async def save(
        self,
        state: RunState,
        finished: Sequence[FinishedGroup[RolloutGroup]],
        write_learners: Callable[[Path], Awaitable[None]],
    ) -> float:
        """Saves `state` and what `write_learners` writes into its folder; returns the seconds that training waited.

        The checkpoint counts only once `drain` or the next `save` has returned. `state` and the learners must be of
        the same moment: nothing may train before this returns.
        """
        started_s = time.perf_counter()
        await self.drain()
        begun_s = time.perf_counter()
        self.begun_s = asyncio.get_running_loop().time()
        part: Path | None = None
        try:
            part = await asyncio.to_thread(self._store.begin, state.step)
            await write_learners((part / LEARNER_FOLDER).resolve())
        except OSError as error:
            if part is not None:
                # On a full disk, the logs need the space of the unfinished checkpoint.
                await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            self._on_failure(state.step, str(error))
        else:
            self._committing = asyncio.create_task(self._commit(begun_s, part, state, finished))
        return time.perf_counter() - started_s

    def skip(self, step: int, reason: str) -> None:
        """Reports that the checkpoint of `step`, which is due, is not saved."""
        self._on_failure(step, reason)

    @property
    def last_progress_s(self) -> float:
        """When the disk last took or gave a part of a checkpoint, an event loop time."""
        return self._store.last_progress_s

    async def score(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Records the score for `keep_best` if `metrics` hold it. Call it once `step` is evaluated."""
        score = score_of(metrics, self._config.keep_best)
        if score is not None:
            await asyncio.to_thread(self._store.record_score, step, score)

    async def drain(self) -> None:
        """Waits until the last checkpoint is saved or has failed. Cancelling the wait does not cancel the save."""
        if self._committing is not None:
            await asyncio.shield(self._committing)
            self._committing = None

    async def _commit(
        self, begun_s: float, part: Path, state: RunState, finished: Sequence[FinishedGroup[RolloutGroup]]
    ) -> None:
        """Warns once if a run that is asked to stop would not have had the time."""
        content = (part, state, finished, self._config.keep, self._config_yaml)
        try:
            await asyncio.to_thread(self._store.commit, *content)
        except OSError as error:
            self._on_failure(state.step, str(error))
            return
        self.saved_step = state.step
        took_s, grace_s = time.perf_counter() - begun_s, self._config.stop_grace_s
        if took_s > grace_s and not self._is_slow:
            self._is_slow = True
            logger.warning(
                "a checkpoint took %.0f s, but checkpoint.stop_grace_s is %g: a run that a signal ends would lose it; "
                "raise the key, and the time that the cluster gives a process to end",
                took_s,
                grace_s,
            )


@contextmanager
def _warning(consequence: str) -> Iterator[None]:
    """Logs an error of the disk in place of raising it."""
    try:
        yield
    except OSError as error:
        logger.warning("%s: %s", consequence, error)


def require_good(path: Path) -> None:
    """Raises ConfigError if `path`, which checkpoint.resume names, is not an undamaged checkpoint."""
    if (damage := damage_of(path)) is not None:
        raise ConfigError(f"checkpoint.resume {path} is not a good checkpoint: {damage}")


def read_state(path: Path) -> RunState:
    """The controller's state in an undamaged checkpoint. Raises ConfigError if it cannot be read."""
    try:
        return _STATE_DECODER.validate_json((path / _STATE).read_bytes())
    except OSError as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}") from None
    except ValidationError as error:
        errors = [f"{'.'.join(map(str, detail['loc'])) or _STATE}: {detail['msg']}" for detail in error.errors()]
        raise _other_version(path, "; ".join(errors)) from None


def read_finished(path: Path) -> tuple[FinishedGroup[RolloutGroup], ...]:
    """The finished groups in an undamaged checkpoint. Raises ConfigError if they cannot be read."""
    try:
        groups: tuple[FinishedGroup[RolloutGroup], ...] = load_records((path / _FINISHED).read_bytes())
    except (RecordShapeError, TypeError, AttributeError, ImportError) as error:
        raise _other_version(path, f"{_FINISHED}: {error}") from None
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}") from None
    return groups


def _other_version(path: Path, differing: str) -> ConfigError:
    fix = "resume it with that version, or export it and start a new run"
    return ConfigError(f"checkpoint {path} was written by another version of maspo_dist ({differing}): {fix}")
