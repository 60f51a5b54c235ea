"""A session: what the controller works on until it goes back to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.controller.group_stream import GroupStream
from maspo_dist.flow.ledger import Ledger
from maspo_dist.runs.checkpoint import RunState
from maspo_dist.runs.metrics import MetricFanout
from maspo_dist.types import Event, FinishedGroup, LedgerRow, RolloutGroup, SampleRow


class RunRecord(Protocol):
    """What a run leaves behind; see `RunFolder`."""

    def write_event(self, event: Event) -> None: ...

    def write_ledger(self, rows: Sequence[LedgerRow]) -> None: ...

    def write_samples(self, rows: Sequence[SampleRow]) -> None: ...

    def is_scored(self, step: int) -> bool: ...

    def rewind(self, step: int) -> int: ...

    def sync(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Made at the start of a run, and again whenever it continues from a checkpoint."""

    stream: GroupStream
    ledger: Ledger
    metrics: MetricFanout


#: Makes a session from the state of a checkpoint (None: the start) and its finished groups.
SessionFactory = Callable[[RunState | None, Sequence[FinishedGroup[RolloutGroup]]], Session]
