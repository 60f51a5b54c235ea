"""Rollout workers without engines, for the real pool: scripted by event, deterministic, on any clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from actors.bench.doubles import FakeWorker, make_result, make_verdict
from actors.interfaces import Body, PublishReport, StagedWeights, WeightUpdate
from maspo_dist.errors import ActorDiedError, PlacementError
from maspo_dist.types import GroupReport, RolloutGroup, RolloutRequest

#: A step of a script: runs before the call of that name is answered.
Hook = Callable[["ScriptedWorker", object], Awaitable[None]]


def draw_result(request: RolloutRequest, version: int) -> tuple[GroupReport, RolloutGroup]:
    """Responses and rewards that depend on the seed and the policy version alone."""
    rng = np.random.default_rng([request.seed, version])
    lengths = rng.integers(1, request.sampling.max_response_tokens + 1, request.num_samples)
    rewards = rng.integers(0, 2, request.num_samples)
    verdicts = [make_verdict(float(reward)) for reward in rewards]
    return make_result(request, version, lengths.tolist(), verdicts)


class ScriptedWorker(FakeWorker):
    """Answers unless it is dead or hung. `seconds` is what a group takes; hooks may kill it in mid-call."""

    def __init__(self, index: int, factory: ScriptedFactory) -> None:
        super().__init__(index)
        self.factory = factory
        self.hung = False
        self.stopped = False
        self.answered: list[int] = []
        #: The answer to a ping: tokens sampled so far.
        self.tokens: Callable[[], int] = lambda: len(self.answered)
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        self.factory.requests.append((self.index, request))
        result = await self._alive("generate", request)
        self.answered.append(request.group_id)
        assert result is request
        return draw_result(request, self.version)

    @property
    def node_id(self) -> str:
        return self.factory.nodes.get(self.index, super().node_id)

    async def stage(self, update: WeightUpdate) -> StagedWeights:
        await self._alive("stage", update)
        return await super().stage(update)

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        await self._alive("publish", update)
        self.factory.published.append((self.index, update.version))
        self.factory.staged_by.append(staged.source if staged else None)
        return await super().publish(update, staged)

    async def sleep(self) -> None:
        await self._alive("sleep", None)
        self.factory.slept.append(self.index)

    async def ping(self) -> int:
        await self._alive("ping", None)
        return self.tokens()

    async def is_gone_with_its_node(self) -> bool:
        return self.index in self.factory.lost_nodes

    async def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        """As SIGKILL: every call that is on fails now."""
        if not self.dead.done():
            self.dead.set_result(None)
        self.factory.living.discard(self)

    async def _alive(self, call: str, subject: object) -> object:
        if hook := self.factory.hooks.get(call):
            await hook(self, subject)
        seconds = self.factory.seconds if call == "generate" else 0.0
        work = asyncio.ensure_future(asyncio.Event().wait() if self.hung else asyncio.sleep(seconds))
        try:
            await asyncio.wait((work, self.dead), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
        if self.dead.done():
            raise ActorDiedError(f"{self.name}: the process behind it died (scripted)")
        return subject


@dataclass(eq=False)
class ScriptedFactory:
    """Starts scripted workers, `free` at a time, the others when there is room; keeps what they saw."""

    seconds: float = 0.0
    free: int = 1000
    start_s: float = 0.0
    hooks: dict[str, Hook] = field(default_factory=dict)
    start_failures: list[Exception] = field(default_factory=list)
    living: set[ScriptedWorker] = field(default_factory=set)
    started: list[ScriptedWorker] = field(default_factory=list)
    requests: list[tuple[int, RolloutRequest]] = field(default_factory=list)
    published: list[tuple[int, int]] = field(default_factory=list)
    slept: list[int] = field(default_factory=list)
    #: Workers that share a node, by index; any other worker has a node of its own.
    nodes: dict[int, str] = field(default_factory=dict)
    #: Who received the weights of each of `published`; None for the worker itself.
    staged_by: list[object] = field(default_factory=list)
    #: Indices of workers whose nodes the cluster knows to be lost.
    lost_nodes: set[int] = field(default_factory=set)
    #: How long each worker that was to start would have waited for room.
    place_timeouts_s: list[float] = field(default_factory=list)

    async def start_worker(self, index: int, place_timeout_s: float) -> ScriptedWorker:
        await asyncio.sleep(self.start_s)
        self.place_timeouts_s.append(place_timeout_s)
        if self.start_failures:
            raise self.start_failures.pop(0)
        if len(self.living) >= self.free:
            try:
                async with asyncio.timeout(place_timeout_s):
                    while len(self.living) >= self.free:  # noqa: ASYNC110 (a set, not an event)
                        await asyncio.sleep(0.001)
            except TimeoutError:
                raise PlacementError(f"no room within {place_timeout_s:g} s (scripted)") from None
        worker = ScriptedWorker(index, self)
        self.living.add(worker)
        self.started.append(worker)
        return worker

    async def room(self) -> int:
        return self.free - len(self.living)

    async def fetch(self, body: Body) -> RolloutGroup:
        assert isinstance(body, RolloutGroup)
        return body

    def store(self, group: RolloutGroup) -> Body:
        return group
