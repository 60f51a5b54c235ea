"""What a rollout engine may offer beyond `RolloutEngine`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from maspo_dist.runs.live import EngineFigures


@runtime_checkable
class ReportingEngine(Protocol):
    """An engine that reports its own figures, such as how many requests run."""

    def figures(self) -> EngineFigures | None: ...


@runtime_checkable
class MovableEngine(Protocol):
    """An engine that the next run of the same program can take over. Without this ability, each run starts its own
    engine.
    """

    async def log_to(self, path: Path) -> None:
        """Sends the output of the engine's processes to `path` from now on."""


@runtime_checkable
class SleepingEngine(Protocol):
    """Shares its device with a learner, where `cluster.layout` is colocated."""

    async def sleep(self) -> None:
        """Leaves the device's memory to others, and drops weights, keys and values. No request is in flight.

        The next update wakes the engine: `pause` takes the memory of the weights back, `resume` all of it. Until then,
        requests wait. A second call changes nothing.
        """
