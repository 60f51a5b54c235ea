"""The world around the real controller, stream, ledger and pool: its workers, which fail at random.

Every fault is drawn from one seed and timed by a virtual clock, so that a story can be replayed from its seed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from doubles.workers import draw_result
from simulated_broadcast import SimulatedBroadcast
from story import Story
from talk import Talker

from actors.bench.doubles import make_publish_report
from actors.interfaces import (
    Body,
    Broadcast,
    BroadcastGroup,
    PublishReport,
    StagedWeights,
    WeightSnapshot,
    WeightUpdate,
)
from actors.ray.waits import cancel_all
from maspo_dist.errors import ActorDiedError, BodyLostError, PlacementError, WeightTransferError
from maspo_dist.types import (
    GroupReport,
    RolloutGroup,
    RolloutRequest,
)

#: Virtual seconds after which a run that is not done counts as stuck.
LIMIT_S = 200_000.0


@dataclass(eq=False)
class World:
    """What outlives a crash of the controller, and what the checks are made of."""

    story: Story
    rng: random.Random
    living: set[SimulatedWorker] = field(default_factory=set)
    #: Who responds where responses are conversations, over all workers that ever were.
    talkers: list[Talker] = field(default_factory=list)
    #: How often each group was sent to a worker.
    dispatches: Counter[int] = field(default_factory=Counter)
    capacity: int = 8
    #: The learner's history that counts: trained[version] = group ids of the batch that made it.
    trained: dict[int, list[int]] = field(default_factory=dict)
    #: By version as well: tokens of that batch that were not sampled.
    heard_tokens: dict[int, int] = field(default_factory=dict)
    max_outstanding: int = 0
    #: Bodies that were lost with their nodes. They are kept, so that no new body has the identity of a lost body.
    lost_bodies: list[RolloutGroup] = field(default_factory=list)
    #: By the store where their members meet, their group and their number.
    broadcasts: dict[tuple[int, str, int], SimulatedBroadcast] = field(default_factory=dict)
    #: Learner groups started so far; each has a store of its own.
    stores: int = 0

    #: Learners that hold the devices, which engines share with them in a colocated story.
    learners_hold: bool = False
    #: What engines did while learners held their devices.
    trespasses: list[str] = field(default_factory=list)
    #: The policy version in memory that engines may read.
    shared_version: int | None = None

    @property
    def is_colocated(self) -> bool:
        return self.story.config.cluster.layout == "colocated"

    def broadcast(self, broadcast: Broadcast) -> SimulatedBroadcast:
        group = broadcast.group
        return self.broadcasts.setdefault((group.port, group.name, broadcast.number), SimulatedBroadcast(group))

    def broadcasts_of(self, group: BroadcastGroup) -> list[SimulatedBroadcast]:
        place = (group.port, group.name)
        return [members for (port, name, _), members in self.broadcasts.items() if (port, name) == place]

    def read(self, body: Body) -> RolloutGroup:
        """Returns `body`, or raises BodyLostError: by chance a body is lost, and then every read of it fails."""
        assert isinstance(body, RolloutGroup)
        if self.chance(self.story.faults.body_loss):
            self.lost_bodies.append(body)
        if any(body is lost for lost in self.lost_bodies):
            raise BodyLostError(f"group {body.group_id} is gone with its node (simulated)")
        return body

    def require_engines_turn(self, what: str) -> None:
        """The loop may take the error for a lost worker and go on, so it is kept for the end as well."""
        if self.learners_hold:
            self.trespasses.append(f"{what} while learners hold its device")
            raise AssertionError(self.trespasses[-1])

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


class SimulatedWorker:
    """Answers after some time, or fails as the story says."""

    figures = None

    def __init__(self, world: World, index: int) -> None:
        self._world = world
        self._index = index
        self._version = -1
        self._hung = asyncio.Event()
        #: Not set while the engine is paused with a part of its next weights.
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._answered = 0
        self.is_awake = True
        self._missed_at_s = float("inf")
        self._dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        environment = world.story.config.environment
        self._talker = None if environment is None else Talker(environment, self._serving, self._work)
        if self._talker is not None:
            world.talkers.append(self._talker)

    @property
    def name(self) -> str:
        return f"rollout worker {self._index}"

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        assert self._version >= 0, f"{self.name} serves without weights"
        world, faults = self._world, self._world.story.faults
        world.dispatches[request.group_id] += 1
        # An engine without whole weights is paused: a publish that waits for its requests would wait for ever.
        assert self._is_whole.is_set() or world.story.config.rollout.in_flight_updates
        assert self.is_awake, f"{self.name} gets a request while it sleeps"
        result = None
        try:
            if self._talker is not None:
                result = await self._talker.respond(request)
            else:
                result = draw_result(request, await self._serving())
                await self._work(world.rng.expovariate(0.2))
            if request.prompt.prompt_id in faults.poison or world.chance(faults.kill):
                self.kill()
            if world.chance(faults.hang):
                self._hung.set()
            if world.chance(faults.lost_reply):
                await self._work(float("inf"))
            await self._work(world.rng.expovariate(0.01) if world.chance(faults.slow_link) else 0.0)
        except asyncio.CancelledError:
            # The reply was on its way when the call was given up.
            never = request.prompt.prompt_id in faults.poison
            if result is None or self._dead.done() or never or not world.chance(faults.late_reply):
                raise
        self._answered += 1
        return result

    @property
    def node_id(self) -> str:
        return self.name

    async def stage(self, update: WeightUpdate) -> StagedWeights:
        raise AssertionError("every simulated worker has a node of its own")

    async def sleep(self) -> None:
        world = self._world
        assert world.is_colocated
        # Before anything is trained, a lost worker ends the run.
        if world.trained and world.chance(world.story.faults.hang):
            self._hung.set()
        await self._work(world.rng.uniform(0.1, 2.0))
        self.is_awake = False
        if world.trained and world.chance(world.story.faults.kill):
            asyncio.get_running_loop().call_later(world.rng.uniform(0, 20), self.kill)

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        self._world.require_engines_turn(f"{self.name} wakes")
        self.is_awake = True
        await self._work(self._world.rng.uniform(0.1, 2.0))
        if self._world.chance(self._world.story.faults.kill):
            self.kill()
            await self._work(0.0)
        if staged is not None and isinstance(staged.source, Broadcast):
            await self._receive(staged.source)
        elif staged is not None:
            await self._read(staged.version)
        else:
            assert isinstance(update.snapshot, WeightSnapshot)
            assert update.snapshot.version == update.version
        self._version = update.version
        self._is_whole.set()
        return make_publish_report(update)

    async def _serving(self) -> int:
        """The policy version, once the engine has all of its weights."""
        await self._is_whole.wait()
        return self._version

    async def _read(self, version: int) -> None:
        assert self._version >= 0, f"{self.name} reads its first weights in the learners' memory"
        world = self._world
        self._is_whole.clear()
        if world.chance(world.story.faults.hang):
            self._hung.set()
        for _ in range(3):
            assert world.shared_version == version, f"{self.name} reads memory that is not shared"
            await self._work(world.rng.uniform(0.1, 2.0))
        if world.chance(world.story.faults.transfer_failure):
            raise WeightTransferError("memory cannot be opened (simulated)")

    async def _receive(self, source: Broadcast) -> None:
        assert self._version >= 0, f"{self.name} serves without weights: its first are broadcast"
        world, broadcast = self._world, self._world.broadcast(source)
        if world.chance(world.story.faults.hang):
            self._hung.set()
            await self._work(float("inf"))
        broadcast.begun.add(source.first_rank)
        broadcast.change()
        self._is_whole.clear()
        receiving = asyncio.ensure_future(broadcast.until_sent())
        try:
            await asyncio.wait((receiving, self._dead), return_when=asyncio.FIRST_COMPLETED)
            await self._work(0.0)
            receiving.result()
            if world.chance(world.story.faults.kill):
                self.kill()
            if world.chance(world.story.faults.hang):
                self._hung.set()
            await self._work(0.0)
        finally:
            await cancel_all([receiving])
        broadcast.finished.add(source.first_rank)
        broadcast.change()

    def holds(self, version: int) -> bool:
        """Whether the engine computes with the weights of `version` alone."""
        return self._is_whole.is_set() and self._version == version

    async def ping(self) -> int:
        await self._work(0.01)
        return self._answered

    async def is_gone_with_its_node(self) -> bool:
        return asyncio.get_running_loop().time() >= self._missed_at_s

    async def stop(self) -> None:
        await self._work(0.1)

    def lose_node(self, missed_in_s: float) -> None:
        """Dies; the cluster misses its node only `missed_in_s` later."""
        self._missed_at_s = asyncio.get_running_loop().time() + missed_in_s
        self.kill()

    def kill(self) -> None:
        if not self._dead.done():
            self._dead.set_result(None)
        self._world.living.discard(self)

    async def _work(self, seconds: float) -> None:
        """Takes `seconds` unless the worker is dead, or hung, which is for ever."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        timer = None
        if not self._hung.is_set() and seconds < float("inf"):
            timer = loop.call_later(seconds, lambda: done.done() or done.set_result(None))
        try:
            await asyncio.wait((done, self._dead), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if timer is not None:
                timer.cancel()
            done.cancel()
        if self._dead.done():
            raise ActorDiedError(f"{self.name}: the process behind it died (simulated)")


class SimulatedWorkers:
    """The factory: a start takes a while, and may fail."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def start_worker(self, index: int, place_timeout_s: float) -> SimulatedWorker:
        world = self._world
        await self._start(world)
        if len(world.living) >= world.capacity:
            raise PlacementError("1 processes found no room (simulated)")
        # Before anything is trained, a worker that cannot start ends the run: no start fails then.
        if world.trained and world.chance(world.story.faults.start_failure):
            raise ActorDiedError(f"rollout worker {index}: start: died (simulated)")
        if world.trained and world.chance(world.story.faults.start_hang):
            await asyncio.Event().wait()
        worker = SimulatedWorker(world, index)
        world.living.add(worker)
        return worker

    async def _start(self, world: World) -> None:
        ends_s = asyncio.get_running_loop().time() + world.rng.uniform(5, 40)
        while (left_s := ends_s - asyncio.get_running_loop().time()) > 0:
            world.require_engines_turn("an engine starts")
            await asyncio.sleep(min(left_s, 1.0))

    async def room(self) -> int:
        return self._world.capacity - len(self._world.living)

    async def fetch(self, body: Body) -> RolloutGroup:
        return self._world.read(body)

    def store(self, group: RolloutGroup) -> Body:
        return group
