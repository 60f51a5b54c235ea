"""A broadcast of weights in a story: no bytes travel, but members wait for each other and fail together."""

from __future__ import annotations

import asyncio

from actors.interfaces import BroadcastGroup
from maspo_dist.errors import WeightTransferError


class SimulatedBroadcast:
    """What the members of a broadcast know of each other. `begun` and `finished` hold first ranks of engines."""

    def __init__(self, group: BroadcastGroup) -> None:
        self._group = group
        self.begun: set[int] = set()
        self.finished: set[int] = set()
        self.is_sent = False
        self.failure: str | None = None
        self._changed = asyncio.Event()

    def change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.change()

    async def until_all(self, reported: set[int]) -> bool:
        """Whether all engines are in `reported` within the deadline, and none has failed."""
        try:
            async with asyncio.timeout(self._group.deadline_s):
                while len(reported) < self._group.engine_ranks and self.failure is None:
                    await self._changed.wait()
        except TimeoutError:
            self.fail("the deadline has passed (simulated)")
        return self.failure is None

    async def until_sent(self) -> None:
        """Raises WeightTransferError when it fails."""
        while not self.is_sent and self.failure is None:
            await self._changed.wait()
        if self.failure is not None:
            raise WeightTransferError(self.failure)
