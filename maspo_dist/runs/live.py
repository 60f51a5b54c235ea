"""What a run does at this moment: written by the run, read by `maspo-dist status`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from maspo_dist.runs.jsonl import replace_text

WorkerState = Literal["starting", "joining", "serving", "leaving", "lost", "waiting"]
WORKER_STATES: tuple[WorkerState, ...] = get_args(WorkerState)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFigures:
    """What an engine does now: requests, the share in use of its key-value cache, and counts since it started."""

    requests_running: int = 0
    requests_waiting: int = 0
    kv_cache_share: float = 0.0
    generated_tokens: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """State of a rollout worker.

    version   the policy version that it serves, −1 until it has weights
    engine    by its last answer to a health call; None where the engine does not tell
    """

    name: str
    state: WorkerState
    version: int
    groups_in_flight: int
    restarts: int
    engine: EngineFigures | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """State of the loop.

    step               last finished step
    phase              what the loop does now
    groups_in_flight   admitted groups without a result
    groups_finished    scored groups that are in no batch yet
    saved_step         step of the newest checkpoint; None before the first
    is_evaluating      whether a policy version is being scored on held-out sets
    outcomes           (admitted | trained | dropped | pending, groups) since this process started or rewound
    """

    step: int
    phase: str
    policy_version: int
    groups_in_flight: int
    groups_finished: int
    outcomes: tuple[tuple[str, int], ...]
    saved_step: int | None = None
    is_evaluating: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStatus:
    """The loop, its workers, and its waits, oldest first: (what, seconds so far). `time` is time.time().

    metrics_url   the endpoint for Prometheus; None without one
    """

    time: float
    standing: Standing
    workers: tuple[WorkerStatus, ...]
    waits: tuple[tuple[str, float], ...]
    metrics_url: str | None = None

    def write(self, path: Path) -> None:
        """Replaces `path` in one rename."""
        replace_text(path, json.dumps(asdict(self)))


_DECODER = TypeAdapter(LiveStatus)


def read_live(path: Path) -> LiveStatus | None:
    """None if there is no file, or a file of another version."""
    try:
        return _DECODER.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
