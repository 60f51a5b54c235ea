"""Rows of events.jsonl and samples.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # `status` starts without numpy
    from maspo_dist.types import TurnRow

#: Every kind of event of events.jsonl.
EventKind = Literal[
    "batch_taken_back",
    "broadcast_failed",
    "checkpoint_damaged",
    "checkpoint_failed",
    "config_changed",
    "environment_failed",
    "environments_lost",
    "evaluation_given_up",
    "group_lost",
    "ipc_failed",
    "learner_lost",
    "learner_recovered",
    "metric_not_finite",
    "node_leaves",
    "object_store_small",
    "prompt_set_aside",
    "record_failed",
    "references_changed",
    "resumed",
    "run_failed",
    "run_finished",
    "run_stopped",
    "scale",
    "stalled",
    "started_from",
    "transport_chosen",
    "verifier_lost",
    "verifier_process_lost",
    "verifier_recovered",
    "worker_lost",
    "worker_moves",
    "worker_recovered",
    "worker_waits",
]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fault, a restart, a change of scale or the like, for people.

    time      wall clock, seconds since the epoch
    details   further fields of the row; a number that is not finite is written as null
    """

    kind: EventKind
    message: str
    details: tuple[tuple[str, Scalar], ...] = ()
    time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        for name, _ in self.details:
            if name in ("time", "kind", "message"):
                raise ValueError(f"event {self.kind}: a detail cannot be called {name}")

    def row(self) -> dict[str, Scalar]:
        row: dict[str, Scalar] = {"time": self.time, "kind": self.kind, "message": self.message}
        for name, value in self.details:
            row[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One response, for people. `seconds` is the duration of its verdict, `components` the parts of its reward.

    response         the last turn
    response_start   the reasoning block that the prompt leaves open; a verifier gets it before the response
    scored_by        what gave the reward; an environment that fails gives 0
    turns            all turns, where there are several
    """

    step: int
    group_id: int
    prompt_id: str
    source: str
    prompt: str
    response: str
    response_start: str = ""
    reference: str
    reward: float
    scored_by: Literal["verifier", "environment"] = "verifier"
    status: str
    extracted: str | None
    seconds: float
    reason: str
    finish_reason: str
    components: Mapping[str, float] = field(default_factory=dict)
    turns: Sequence[TurnRow] = ()
