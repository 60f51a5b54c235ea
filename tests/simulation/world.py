"""The world around the real controller, stream, ledger and pool: workers, learners and a machine that fail at random.

Every fault is drawn from one seed and timed by a virtual clock, so that a story can be replayed from its seed.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from doubles.loop import make_config, make_snapshot
from doubles.workers import draw_result
from layout import require_layout
from simulated_broadcast import SimulatedBroadcast
from talk import TALKING, Talker

from actors.bench.doubles import make_publish_report
from actors.interfaces import (
    AnnouncedWeights,
    Body,
    Broadcast,
    BroadcastGroup,
    PublishReport,
    SendReport,
    StagedWeights,
    WeightSnapshot,
    WeightUpdate,
)
from actors.ray.waits import cancel_all
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ActorDiedError, BodyLostError, LearnerLostError, PlacementError
from maspo_dist.types import (
    FloatArray,
    GroupReport,
    IntArray,
    RolloutGroup,
    RolloutRequest,
    TrainingBatch,
    UpdateReport,
)

#: Virtual seconds after which a run that is not done counts as stuck.
LIMIT_S = 200_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities per call, except for the last four, which count events per run."""

    kill: float = 0.0
    hang: float = 0.0
    lost_reply: float = 0.0
    slow_link: float = 0.0
    late_reply: float = 0.0
    learner_loss: float = 0.0
    start_failure: float = 0.0
    start_hang: float = 0.0
    body_loss: float = 0.0
    drains: int = 0
    broadcast_failure: float = 0.0
    poison: frozenset[str] = frozenset()
    scalings: int = 0
    node_losses: int = 0
    crashes: int = 0
    stops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A seed's configuration and what goes wrong in it."""

    seed: int
    config: TrainConfig
    faults: Faults


def make_story(seed: int) -> Story:
    """Draws a story; every eighth is without faults."""
    rng, straggling, transport = random.Random(seed), random.Random(-seed), random.Random(f"transport {seed}")
    talking = random.Random(f"talks {seed}")
    age = rng.choice([0, 0, 1, 1, 2])
    per_step = rng.randint(2, 4)
    config = make_config(
        run={"name": "simulated", "seed": seed % 1000, "max_steps": rng.randint(3, 6)},
        rollout={
            "workers": rng.choice([1, 2, 3, {"min": 1, "max": 3}]),
            "prompts_per_step": per_step,
            "group_size": 2,
            "max_response_tokens": 8,
            "batch_order": rng.choice(["admission", "completion"]),
            "over_sampling": rng.choice([None, 1.25]) if age else None,
            "in_flight_updates": rng.random() < 0.7,
            "max_attempts": rng.randint(2, 4),
            "straggler": straggling.choice(
                [{}, {}, {"deadline_s": 60, "action": "drop"}, {"deadline_s": 60, "action": "requeue"}]
            ),
        },
        algorithm={
            "mini_batches": 2,
            "max_policy_age": age,
            "dynamic_sampling": {"zero_variance": rng.choice(["keep", "drop", "refill"])},
        },
        checkpoint={"every": rng.choice([None, 1, 2, 3])},
        evaluation={"every": rng.choice([None, 1, 2])},
        sync={"transport": transport.choice(["object_store", "collective"])},
        logging={"tensorboard": False, "sample_groups": 0},
        cluster={
            "generate_timeout_s": 300,
            "publish_timeout_s": 100,
            "start_timeout_s": 1000,
            "heartbeat_s": 30,
            "heartbeat_timeout_s": 30,
            "stall_timeout_s": 50_000,
            "max_worker_restarts": 1000,
            "max_learner_restarts": 1000,
        },
        **(TALKING if talking.random() < 0.3 else {}),
    )
    if seed % 8 == 0:
        return Story(seed=seed, config=config, faults=Faults())
    prompts = config.run.max_steps * per_step
    faults = Faults(
        kill=rng.choice([0, 0.02, 0.1]),
        hang=rng.choice([0, 0.02, 0.05]),
        lost_reply=rng.choice([0, 0, 0.03]),
        slow_link=rng.choice([0, 0.2]),
        late_reply=rng.choice([0, 0.5]),
        learner_loss=rng.choice([0, 0, 0.05]),
        start_failure=rng.choice([0, 0.1]),
        poison=frozenset(f"p{rng.randrange(prompts)}" for _ in range(rng.choice([0, 0, 0, 1]))),
        scalings=rng.choice([0, 0, 3]),
        node_losses=rng.choice([0, 0, 1]),
        crashes=rng.choice([0, 0, 1, 2]),
        stops=rng.choice([0, 0, 1, 2]),
        start_hang=rng.choice([0, 0, 0.1]),
        body_loss=rng.choice([0, 0, 0.05]),
        drains=rng.choice([0, 0, 2]),
        broadcast_failure=transport.choice([0, 0.2]),
    )
    return Story(seed=seed, config=config, faults=faults)


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
    max_outstanding: int = 0
    #: Bodies that are gone with their nodes; held, so that none is taken for another.
    lost_bodies: list[RolloutGroup] = field(default_factory=list)
    #: By the store where their members meet, their group and their number.
    broadcasts: dict[tuple[int, str, int], SimulatedBroadcast] = field(default_factory=dict)
    #: Learner groups started so far; each has a store of its own.
    stores: int = 0

    def broadcast(self, broadcast: Broadcast) -> SimulatedBroadcast:
        group = broadcast.group
        return self.broadcasts.setdefault((group.port, group.name, broadcast.number), SimulatedBroadcast(group))

    def broadcasts_of(self, group: BroadcastGroup) -> list[SimulatedBroadcast]:
        place = (group.port, group.name)
        return [members for (port, name, _), members in self.broadcasts.items() if (port, name) == place]

    def read(self, body: Body) -> RolloutGroup:
        """Raises BodyLostError, from a chance on for ever."""
        assert isinstance(body, RolloutGroup)
        if self.chance(self.story.faults.body_loss):
            self.lost_bodies.append(body)
        if any(body is lost for lost in self.lost_bodies):
            raise BodyLostError(f"group {body.group_id} is gone with its node (simulated)")
        return body

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

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        await self._work(self._world.rng.uniform(0.1, 2.0))
        if self._world.chance(self._world.story.faults.kill):
            self.kill()
            await self._work(0.0)
        if staged is not None and isinstance(staged.source, Broadcast):
            await self._receive(staged.source)
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
        await asyncio.sleep(world.rng.uniform(5, 40))
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

    async def room(self) -> int:
        return self._world.capacity - len(self._world.living)

    async def fetch(self, body: Body) -> RolloutGroup:
        return self._world.read(body)

    def store(self, group: RolloutGroup) -> Body:
        return group


class SimulatedLearners:
    """Checks what it is given, against the policy it holds; a checkpoint holds its history."""

    achieved = 0

    def __init__(self, world: World) -> None:
        self._world = world
        self._version = 0
        self._kept: int | None = None

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        world, bound = self._world, self._world.story.config.algorithm.max_policy_age
        read = {group_id: world.read(body) for group_id, body in bodies.items()}
        require_layout(batch, read, world.story.config.learner.micro_batch_tokens)
        for body in read.values():
            oldest = min(min(rollout.token_versions)[0] for rollout in body.rollouts)
            age = self._version - oldest
            assert 0 <= age <= bound, f"group {body.group_id} is {age} versions old, {bound} are allowed"
        await asyncio.sleep(world.rng.uniform(1, 30))
        if world.chance(world.story.faults.learner_loss):
            raise LearnerLostError("learner rank 0: the process behind it died (simulated)")
        self._version += 1
        world.trained[self._version] = sorted(bodies)
        tokens = sum(rollout.behavior_logprobs.size for group in read.values() for rollout in group.rollouts)
        return UpdateReport(step=batch.step, policy_version=self._version, metrics={"learner/tokens": float(tokens)})

    async def export_weights(self, version: int) -> WeightSnapshot | AnnouncedWeights:
        assert version == self._version
        if self._world.story.config.sync.transport == "collective":
            return AnnouncedWeights(version=version, entries=(), address="here", port=self._world.stores)
        await asyncio.sleep(0.5)
        return make_snapshot(version, 1.0)

    # Implements `interfaces.WeightSender`.

    async def send(self, version: int, broadcast: Broadcast) -> SendReport:
        assert version == self._version
        world, group = self._world, broadcast.group
        has_failed = any(earlier.failure for earlier in world.broadcasts_of(group))
        assert not has_failed, f"{group.name} is used again after a broadcast of it failed"
        members = world.broadcast(broadcast)
        if await members.until_all(members.begun):
            await asyncio.sleep(world.rng.uniform(0.1, 3))
            if world.chance(world.story.faults.learner_loss):
                members.fail("the learner died (simulated)")
                raise LearnerLostError("learner rank 0: the process behind it died (simulated)")
            if world.chance(world.story.faults.broadcast_failure):
                members.fail("no route to host (simulated)")
            members.is_sent = True
            members.change()
            await members.until_all(members.finished)
        missing = tuple(rank for rank in range(1, 1 + group.engine_ranks) if rank not in members.finished)
        return SendReport(failure=members.failure, missing=missing)

    async def abandon(self, group: BroadcastGroup) -> None:
        for members in self._world.broadcasts_of(group):
            members.fail("abandoned (simulated)")

    async def keep(self, version: int) -> None:
        assert version == self._version
        await asyncio.sleep(0.5)
        self._kept = version

    async def stored(self, version: int) -> WeightSnapshot | None:
        kept = self._kept
        await asyncio.sleep(0.5)
        return make_snapshot(version, 1.0) if version == kept else None

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        return [np.full(sequence.size - 1, -1.0, np.float32) for sequence in sequences]

    async def save(self, folder: Path) -> None:
        await asyncio.sleep(self._world.rng.uniform(0.1, 5))
        folder.mkdir()  # noqa: ASYNC240 (no other task to hold up)
        (folder / "trained").write_text(json.dumps(list(self._world.trained.items())))

    async def load(self, folder: Path) -> None:
        self._world.trained = dict(json.loads((folder / "trained").read_text()))
        self._version = max(self._world.trained, default=0)

    async def restart(self) -> None:
        await asyncio.sleep(self._world.rng.uniform(5, 60))
        self._world.stores += 1
        self._kept = None
        self._world.trained = {}
        self._version = 0
