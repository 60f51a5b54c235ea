"""Turns of learners and engines on the same devices, where `cluster.layout` is colocated.

    engines generate ──► engines sleep ──► learners wake, update ──► learners rest ──► publish, which wakes the engines

The devices have one holder at a time. A lost engine is started again in the engines' turn only.
"""

from __future__ import annotations

from typing import Literal, Protocol


class SleepingPool(Protocol):
    """A rollout pool whose engines leave their devices."""

    async def sleep(self) -> None:
        """Returns when no engine uses its device; the next publish wakes them. A second call changes nothing."""


class RestingLearners(Protocol):
    """Learners that leave their devices, but for the weights. Calls raise LearnerLostError, as other calls do."""

    async def rest(self) -> None:
        """Moves to the host what only an optimizer step needs."""

    async def wake(self) -> None:
        """Undoes `rest`, to the last bit."""


class DeviceTurns:
    """Who holds the devices of a run. Learners that have just started hold them."""

    def __init__(self, pool: SleepingPool, learners: RestingLearners) -> None:
        self._pool = pool
        self._learners = learners
        self._holder: Literal["learners", "engines"] = "learners"

    async def to_learners(self) -> None:
        """Returns when the learners may compute. No request may be in flight."""
        if self._holder == "engines":
            await self._pool.sleep()
            await self._learners.wake()
            self._holder = "learners"

    async def to_new_learners(self) -> None:
        """Returns when a new group of learners may start. Engines or lost learners had the devices before."""
        await self._pool.sleep()
        self._holder = "learners"

    async def to_engines(self) -> None:
        """Returns when a publish may wake the engines."""
        await self._learners.rest()
        self._holder = "engines"
