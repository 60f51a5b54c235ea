"""Rollout workers as the pool knows them: what it asks of one, where they come from, and which is least loaded."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from actors.interfaces import Body, ProbeSequence, WeightSnapshot, WorkerPublish
from actors.ray.waits import within
from maspo_dist.errors import ActorDiedError, DeadlineError, MaspoError
from maspo_dist.types import FloatArray, GroupReport, RolloutGroup, RolloutRequest

#: Notes about loads that are kept before those that no longer hold are thrown out; more than there are workers.
_NOTES = 10_000


class RolloutWorkerHandle(Protocol):
    """A started worker. Calls may raise ActorDiedError when its process or its engine's is gone."""

    @property
    def name(self) -> str: ...

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]: ...

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> WorkerPublish: ...

    async def ping(self) -> None:
        """Answers when the engine itself does."""

    async def is_gone_with_its_node(self) -> bool:
        """Whether the node that it was started on is no longer part of the cluster, as far as that is known by now."""

    async def stop(self) -> None:
        """Ends the engine's processes gently."""

    def kill(self) -> None:
        """Ends the worker with everything it started, whatever state it is in."""


class WorkerFactory(Protocol):
    """Where workers come from, and where the bodies of groups lie."""

    async def start_worker(self, index: int) -> RolloutWorkerHandle:
        """Places and starts worker `index`. Raises PlacementError where the cluster has no room for it."""

    async def room(self) -> int:
        """How many more workers the cluster could place now."""

    async def fetch(self, body: Body) -> RolloutGroup: ...

    def store(self, group: RolloutGroup) -> Body: ...


@dataclass(frozen=True, slots=True)
class Weights:
    """What a worker serves, and what it is asked to prove that it does."""

    snapshot: WeightSnapshot
    probes: Sequence[ProbeSequence]
    expected: Sequence[FloatArray]


@dataclass(slots=True, eq=False)
class Member:
    """One started worker. `ended` is set once: None when it leaves, else why it was lost with `aboard` groups."""

    index: int
    worker: RolloutWorkerHandle
    ended: asyncio.Future[MaspoError | None]
    serves: bool = False
    version: int = -1
    published: WorkerPublish | None = None
    load: int = 0
    calls: dict[asyncio.Task[tuple[GroupReport, Body]], None] = field(default_factory=dict)
    reserved: bool = False
    aboard: int = 0

    @property
    def is_free(self) -> bool:
        """Whether it takes requests."""
        return self.serves and not self.reserved and not self.ended.done()

    def end(self, cause: MaspoError | None) -> None:
        """Stops listening to all calls; those who made them send them elsewhere."""
        if self.ended.done():
            return
        self.ended.set_result(cause)
        self.aboard = len(self.calls)
        for call in list(self.calls):
            call.cancel()

    async def give(self, weights: Weights, timeout_s: float) -> WorkerPublish:
        """Publishes `weights` to it. Raises DeadlineError, ActorDiedError, WeightSyncError as the proof does, and
        LearnerLostError where the weights are gone with the learner that held them.
        """
        snapshot = weights.snapshot
        self.published = await within(
            timeout_s,
            f"{self.worker.name}: publish of policy version {snapshot.version}",
            self.worker.publish(snapshot, weights.probes, weights.expected),
        )
        self.version = snapshot.version
        return self.published

    async def ping(self, timeout_s: float) -> None:
        """Ends it when its engine does not answer."""
        try:
            await within(timeout_s, f"{self.worker.name}: ping", self.worker.ping())
        except (ActorDiedError, DeadlineError) as error:
            self.end(error)

    async def is_gone_with_its_node(self, timeout_s: float) -> bool:
        """See the worker's; False where the cluster does not say."""
        try:
            return await within(timeout_s, f"{self.worker.name}: its node", self.worker.is_gone_with_its_node())
        except (ActorDiedError, DeadlineError):
            return False

    async def until_ended(self, heartbeat_s: float, timeout_s: float) -> MaspoError | None:
        """Pings until it has ended, by a ping or otherwise; None when it is to leave."""
        while not self.ended.done():
            await asyncio.wait([self.ended], timeout=heartbeat_s)
            if not self.ended.done():
                await self.ping(timeout_s)
        return self.ended.result()


class ByLoad:
    """Finds the least loaded worker that is free, in logarithmic time; notes that no longer hold are skipped."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Member]] = []
        self._serial = itertools.count()

    def note(self, member: Member) -> None:
        """Call it whenever load or freedom of `member` has changed."""
        if member.is_free:
            heapq.heappush(self._heap, (member.load, member.index, next(self._serial), member))
        if len(self._heap) > _NOTES:
            newest = {entry[3]: entry for entry in sorted(self._heap, key=lambda entry: entry[2])}
            self._heap = [entry for entry in newest.values() if entry[3].is_free]
            heapq.heapify(self._heap)

    def least(self) -> Member | None:
        while self._heap:
            load, _, _, member = self._heap[0]
            if member.is_free and load == member.load:
                return member
            heapq.heappop(self._heap)
        return None
