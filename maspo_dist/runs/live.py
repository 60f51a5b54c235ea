"""What a run does at this moment: written by the run, read by `maspo-dist status`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from maspo_dist.runs.jsonl import replace_text


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """State of a rollout worker. `version` is the policy version that it serves, −1 until it has weights."""

    name: str
    state: str
    version: int
    groups_in_flight: int
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """State of the loop.

    step               last finished step
    phase              what the loop does now
    groups_in_flight   admitted groups without a result
    groups_finished    scored groups that are in no batch yet
    outcomes           (admitted | trained | dropped | pending, groups) since this process started or rewound
    """

    step: int
    phase: str
    policy_version: int
    groups_in_flight: int
    groups_finished: int
    outcomes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStatus:
    """The loop, its workers, and its waits, oldest first: (what, seconds so far). `time` is time.time()."""

    time: float
    standing: Standing
    workers: tuple[WorkerStatus, ...]
    waits: tuple[tuple[str, float], ...]

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
