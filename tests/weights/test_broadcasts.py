"""Broadcasts to engines of a pool: whatever happens to an engine, every engine that serves holds the right weights.

The pool, the groups and gloo are real, and so are the processes of the engines, which hold no model.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from doubles.broadcast_workers import BUCKET_BYTES, BroadcastFactory, BroadcastLearner, digest
from doubles.loop import make_config
from doubles.pool import request, until_serving

from actors.interfaces import Broadcast, PublishReport, SendReport, WeightUpdate
from actors.rollout.broadcasts import Broadcasts
from actors.rollout.pool import ElasticRolloutPool
from maspo_dist.config import TrainConfig
from maspo_dist.errors import LearnerLostError
from maspo_dist.runs.rows import Event

#: Of a part of a broadcast: 0.4 of the deadline of a ping.
DEADLINE_S = 3.0
ENGINES = 3


def config(transport: str = "collective", workers: int = ENGINES) -> TrainConfig:
    cluster = {"restart_backoff_s": 0.0, "heartbeat_s": 0.2, "heartbeat_timeout_s": DEADLINE_S / 0.4}
    return make_config(rollout={"workers": workers}, sync={"transport": transport}, cluster=cluster)


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Iterator[BroadcastFactory]:
    monkeypatch.setattr("actors.weights.collective.BUCKET_BYTES", {"cpu": BUCKET_BYTES})
    factory = BroadcastFactory(ENGINES + 1)
    yield factory
    factory.close()


class Scene:
    def __init__(self, pool: ElasticRolloutPool, learner: BroadcastLearner, factory: BroadcastFactory) -> None:
        self.pool = pool
        self.learner = learner
        self.factory = factory
        self.events: list[Event] = []

    async def publish(self, version: int) -> PublishReport:
        announced = self.learner.announce(version)
        return await self.pool.publish(WeightUpdate(snapshot=announced, probes=(), expected=(), max_mean_gap=1e-3))

    def require(self, version: int, *indices: int) -> None:
        """The workers started as number `indices` hold `version`."""
        for index in indices:
            worker = self.factory.started[index]
            assert (worker.version, worker.held) == (version, digest(version)), worker.name

    def said(self, kind: str) -> list[str]:
        return [event.message for event in self.events if event.kind == kind]


@asynccontextmanager
async def running(
    factory: BroadcastFactory, settings: TrainConfig, learner: BroadcastLearner | None = None
) -> AsyncIterator[Scene]:
    learner = learner or BroadcastLearner()
    events: list[Event] = []
    pool = ElasticRolloutPool(settings, factory, events.append, Broadcasts(settings, learner, events.append))
    scene = Scene(pool, learner, factory)
    scene.events = events
    try:
        await pool.start()
        await scene.publish(0)
        yield scene
    finally:
        await pool.stop()


async def test_first_weights_come_through_the_object_store_and_later_weights_by_broadcast(
    factory: BroadcastFactory,
) -> None:
    async with running(factory, config()) as scene:
        scene.require(0, 0, 1, 2)
        for version in (1, 2):
            report = await scene.publish(version)
            scene.require(version, 0, 1, 2)
            assert report.transfer_s > 0, scene.events
    assert scene.learner.stored_versions == [0]
    assert [worker.broadcasts for worker in factory.started] == [2] * ENGINES
    assert set(scene.learner.groups) == {"publish-1"}
    assert scene.events == []


async def until_started(factory: BroadcastFactory, workers: int) -> None:
    async with asyncio.timeout(5):
        while len(factory.started) < workers:  # noqa: ASYNC110 (a condition of its parts)
            await asyncio.sleep(0.01)


def _at(tensor: int, strike: Callable[[], None]) -> Callable[[int], None]:
    return lambda index: strike() if index == tensor else None


@pytest.mark.parametrize(
    ("which", "tensor", "struck"),
    [
        pytest.param(signal.SIGKILL, None, 0, id="killed before"),
        pytest.param(signal.SIGKILL, 0, 1, id="killed when all have begun"),
        pytest.param(signal.SIGKILL, 9, 0, id="killed in"),
        pytest.param(signal.SIGSTOP, None, 1, id="frozen before"),
        pytest.param(signal.SIGSTOP, 9, 0, id="frozen in"),
    ],
)
async def test_an_engine_struck_around_a_broadcast_costs_that_engine_only(
    factory: BroadcastFactory, which: signal.Signals, tensor: int | None, struck: int
) -> None:
    async with running(factory, config()) as scene:
        await scene.publish(1)
        victim = factory.started[struck]
        if tensor is None:
            victim.engine.strike(which)
        else:
            scene.learner.before = _at(tensor, lambda: victim.engine.strike(which))
        started_s = time.monotonic()
        assert (await scene.publish(2)).version == 2
        # All engines to begin, then the bytes, then the grace of engines that have not left.
        assert time.monotonic() - started_s < 3 * DEADLINE_S + 2
        survivors = [index for index in range(ENGINES) if index != struck]
        scene.require(2, *survivors)
        scene.learner.before = lambda index: None
        await until_serving(scene.pool, ENGINES)
        scene.require(2, *survivors, ENGINES)
        # The next broadcast has a group of its own, with the replacement.
        await scene.publish(3)
        scene.require(3, *survivors, ENGINES)
    assert scene.learner.groups[-1] != scene.learner.groups[0]
    assert len(scene.said("broadcast_failed")) == 1
    assert len(scene.said("worker_lost")) == 1


async def test_an_engine_killed_after_a_broadcast_is_replaced_by_one_with_its_weights(
    factory: BroadcastFactory,
) -> None:
    async with running(factory, config()) as scene:
        await scene.publish(1)
        factory.started[0].engine.strike(signal.SIGKILL)
        await until_started(factory, ENGINES + 1)
        await until_serving(scene.pool, ENGINES)
        scene.require(1, 1, 2, ENGINES)
    assert scene.said("broadcast_failed") == []


async def test_an_engine_that_joins_during_an_update_waits_for_no_publish(factory: BroadcastFactory) -> None:
    async with running(factory, config(workers=2)) as scene:
        await scene.publish(1)
        # The weights of the learner change now; the copy that it kept does not.
        scene.learner.version = 99
        scene.pool.scale(3)
        await until_serving(scene.pool, 3)
        scene.require(1, 0, 1, 2)
        assert scene.learner.stored_versions == [0, 1]
        await scene.publish(2)
        scene.require(2, 0, 1, 2)
        assert factory.started[2].broadcasts == 1


async def test_a_worker_that_joins_during_a_broadcast_gets_its_weights_when_the_learner_has_kept_them(
    factory: BroadcastFactory,
) -> None:
    async with running(factory, config(workers=2)) as scene:
        await scene.publish(1)
        loop = asyncio.get_running_loop()
        scene.learner.before = _at(5, lambda: loop.call_soon_threadsafe(scene.pool.scale, 3))
        await scene.publish(2)
        await until_serving(scene.pool, 3)
        scene.require(2, 0, 1, 2)
    assert factory.started[2].broadcasts == 0


async def test_auto_gives_broadcasts_up_when_two_fail_without_a_loss(factory: BroadcastFactory) -> None:
    async with running(factory, config("auto", workers=2)) as scene:
        scene.learner.before = _at(0, scene.learner.give_up)
        for version in (1, 2, 3):
            await scene.publish(version)
            scene.require(version, 0, 1)
    assert scene.learner.groups == ["publish-1", "publish-2"]
    assert len(scene.said("broadcast_failed")) == 2
    assert scene.said("transport_chosen") == [
        "object_store from now on: 2 publishes in a row failed, and no engine was lost"
    ]
    assert scene.said("worker_lost") == []


class LearnerThatLosesARank(BroadcastLearner):
    """Rank 1 is lost in a broadcast, and rank 0 waits for it until `find_rank_1`."""

    def lose_rank_1(self) -> None:
        loop, lost, found = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def wait() -> None:
            loop.call_soon_threadsafe(lost.set)
            found.wait(20)

        self.before = _at(9, wait)
        self._lost, self._found = lost, found

    async def find_rank_1(self) -> None:
        self.before = lambda index: None
        self._found.set()
        await self._sending

    async def send(self, version: int, broadcast: Broadcast) -> SendReport:
        self._sending = asyncio.ensure_future(super().send(version, broadcast))
        lost = asyncio.ensure_future(self._lost.wait()) if version == 2 else self._sending
        await asyncio.wait([self._sending, lost], return_when=asyncio.FIRST_COMPLETED)
        if not self._sending.done():
            raise LearnerLostError("learner rank 1: send_weights: the process died")
        return self._sending.result()


async def test_a_learner_lost_in_a_broadcast_costs_no_engine_and_requests_wait_for_the_next_publish(
    factory: BroadcastFactory,
) -> None:
    learner = LearnerThatLosesARank()
    async with running(factory, config(workers=2), learner) as scene:
        await scene.publish(1)
        learner.lose_rank_1()
        started_s = time.monotonic()
        with pytest.raises(LearnerLostError, match="rank 1"):
            await scene.publish(2)
        assert time.monotonic() - started_s < DEADLINE_S + 2
        waiting = asyncio.ensure_future(scene.pool.generate(request(0)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await learner.find_rank_1()
        await scene.publish(3)
        scene.require(3, 0, 1)
        await asyncio.wait_for(waiting, 5)
    assert scene.said("worker_lost") == []


async def test_a_worker_that_joins_before_a_new_learner_has_published_waits_without_asking_again(
    factory: BroadcastFactory,
) -> None:
    async with running(factory, config(workers=2)) as scene:
        await scene.publish(1)
        scene.learner.restart()
        scene.pool.scale(3)
        await until_started(factory, 3)
        await asyncio.sleep(0.2)
        assert scene.learner.stored_versions == [0, 1]
        await scene.publish(2)
        await until_serving(scene.pool, 3)
        scene.require(2, 0, 1, 2)
