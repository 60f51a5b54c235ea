"""How a run stands this second: written by the run, read by `maspo-dist status`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from maspo_dist.runs.whole_file import replace_text


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """How a rollout worker stands; `version` is of the policy that it serves, −1 until it has weights."""

    name: str
    state: str
    version: int
    groups_in_flight: int
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the loop stands.

    step               last one done;  phase   what goes on now
    groups_in_flight   admitted, no result yet;  groups_finished   scored, in no batch yet
    outcomes           (admitted | trained | dropped | pending, groups) since this process began or rewound
    """

    step: int
    phase: str
    policy_version: int
    groups_in_flight: int
    groups_finished: int
    outcomes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStatus:
    """The loop, its workers, and what is waited for, oldest first: (what, seconds so far). `time` is time.time()."""

    time: float
    standing: Standing
    workers: tuple[WorkerStatus, ...]
    waits: tuple[tuple[str, float], ...]

    def write(self, path: Path) -> None:
        """Replaces `path` in one rename."""
        replace_text(path, json.dumps(asdict(self)))


def read_live(path: Path) -> LiveStatus | None:
    """None where there is none, or one of another version."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        standing = fields["standing"]
        return LiveStatus(
            time=float(fields["time"]),
            standing=Standing(**{**standing, "outcomes": tuple((name, count) for name, count in standing["outcomes"])}),
            workers=tuple(WorkerStatus(**worker) for worker in fields["workers"]),
            waits=tuple((what, seconds) for what, seconds in fields["waits"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
