"""What a run makes at its start, and again whenever it continues from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from actors.controller.group_stream import GroupStream
from maspo_dist.flow.ledger import Ledger
from maspo_dist.runs.metrics import MetricFanout


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Made at the start of a run, and again whenever the run continues from a checkpoint."""

    stream: GroupStream
    ledger: Ledger
    metrics: MetricFanout
