"""Publishes to engines that read the learners' memory: the right weights arrive whatever an engine or learner does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from doubles.loop import make_config
from doubles.pool import FAST, until_serving
from doubles.workers import ScriptedFactory, ScriptedWorker

from actors.bench.doubles import make_snapshot
from actors.interfaces import AnnouncedWeights, StagedWeights, WeightSnapshot, WeightUpdate
from actors.rollout.ipc import IpcPublisher
from actors.rollout.pool import ElasticRolloutPool
from actors.weights.shared_devices import SharedDevices
from maspo_dist.errors import LearnerLostError, WeightTransferError
from maspo_dist.runs.rows import Event


@dataclass(eq=False)
class SharingLearners:
    """Learners in this process; `calls` are all calls, in order."""

    calls: list[str] = field(default_factory=list)
    shared: int | None = None
    kept: int | None = None
    cannot_share: bool = False
    is_lost: bool = False
    #: Set once weights may be stored.
    may_store: asyncio.Event = field(default_factory=asyncio.Event)

    async def share(self, version: int) -> StagedWeights:
        self.calls.append("share")
        if self.cannot_share:
            raise WeightTransferError("GPU-0 cannot share its memory: none is left")
        self.shared = version
        return StagedWeights(version=version, entries=(), source=SharedDevices(devices=(), fingerprint=version))

    async def unshare(self) -> None:
        self.calls.append("unshare")
        self.shared = None

    async def keep(self, version: int) -> None:
        self.calls.append("keep")
        await asyncio.sleep(0)
        if self.is_lost:
            raise LearnerLostError("learner rank 1 died")
        self.kept = version

    async def store(self, version: int) -> None:
        self.calls.append("store")
        self.kept = version

    async def stored(self, version: int) -> WeightSnapshot | None:
        self.calls.append("stored")
        await self.may_store.wait()
        return make_snapshot(version, 1.0) if version == self.kept else None


class Scene:
    def __init__(self, transport: str) -> None:
        settings = make_config(
            rollout={"workers": 2},
            learner={"ranks": 2},
            sync={"transport": transport},
            cluster={**FAST, "layout": "colocated"},
        )
        self.factory = ScriptedFactory()
        self.factory.hooks["publish"] = self._require_shared
        self.learners = SharingLearners()
        self.learners.may_store.set()
        self.events: list[Event] = []
        publisher = IpcPublisher(settings, self.learners, self.events.append)
        self.pool = ElasticRolloutPool(settings, self.factory, self.events.append, publisher)
        #: Workers that cannot read the memory of the learners.
        self.blind: set[int] = set()

    async def publish(self, version: int) -> list[str]:
        """The calls to the learners meanwhile."""
        self.learners.calls.clear()
        announced = AnnouncedWeights(version=version, entries=(), address="", port=0)
        await self.pool.publish(WeightUpdate(snapshot=announced, probes=(), expected=(), max_mean_gap=1e-3))
        return self.learners.calls

    def said(self, kind: str) -> list[str]:
        return [event.message for event in self.events if event.kind == kind]

    @property
    def versions(self) -> list[int]:
        return [worker.version for worker in self.factory.living]

    async def _require_shared(self, worker: ScriptedWorker, update: object) -> None:
        assert isinstance(update, WeightUpdate)
        if isinstance(update.snapshot, WeightSnapshot):
            return
        for _ in range(5):
            assert self.learners.shared == update.version, f"{worker.name} reads memory that is not shared"
            await asyncio.sleep(0)
        if worker.index in self.blind:
            raise WeightTransferError("memory cannot be opened")


@asynccontextmanager
async def running(transport: str = "ipc") -> AsyncIterator[Scene]:
    scene = Scene(transport)
    try:
        await scene.pool.start()
        assert await scene.publish(0) == ["store", "stored"]
        yield scene
    finally:
        await scene.pool.stop()


async def test_later_weights_are_read_in_the_learners_memory_which_is_free_after_the_publish() -> None:
    async with running() as scene:
        for version in (1, 2):
            assert await scene.publish(version) == ["share", "keep", "unshare"]
            assert scene.versions == [version] * 2
        assert scene.events == []


async def test_an_engine_that_cannot_read_the_memory_gets_the_weights_through_the_object_store() -> None:
    async with running() as scene:
        scene.blind = {1}
        assert await scene.publish(1) == ["share", "keep", "unshare", "stored"]
        assert scene.versions == [1, 1]
        assert scene.said("ipc_failed") == [
            "policy version 1 comes through the object store: memory cannot be opened",
        ]


async def test_learners_that_cannot_share_send_the_weights_through_the_object_store() -> None:
    async with running() as scene:
        scene.learners.cannot_share = True
        assert await scene.publish(1) == ["share", "unshare", "store", "stored"]
        assert scene.versions == [1, 1]
        assert "GPU-0 cannot share its memory" in scene.said("ipc_failed")[0]


@pytest.mark.parametrize(("transport", "shares"), [("auto", 2), ("ipc", 3)])
async def test_only_auto_stops_sharing_after_two_failures(transport: str, shares: int) -> None:
    async with running(transport) as scene:
        scene.blind = {0, 1}
        calls = [call for version in (1, 2, 3) for call in [*await scene.publish(version)]]
        assert calls.count("share") == shares
        # Then nothing is copied twice.
        assert calls[-2:] == ["store" if transport == "auto" else "unshare", "stored"]
        assert scene.versions == [3, 3]
        chosen = ["object_store from now on: 2 publishes in a row failed, and no engine was lost"]
        assert scene.said("transport_chosen") == (chosen if transport == "auto" else [])


async def test_an_engine_that_dies_while_it_reads_costs_that_engine_only() -> None:
    async with running() as scene:

        async def die(worker: ScriptedWorker, _: object) -> None:
            if worker.index == 0 and worker is scene.factory.started[0]:
                worker.kill()

        scene.factory.hooks["publish"] = die
        assert (await scene.publish(1))[:3] == ["share", "keep", "unshare"]
        await until_serving(scene.pool, 2)
        assert scene.versions == [1, 1]
        assert scene.said("ipc_failed") == []
        assert len(scene.said("worker_lost")) == 1


async def test_a_lost_learner_fails_the_publish_once_no_engine_reads() -> None:
    async with running() as scene:
        scene.learners.is_lost = True
        with pytest.raises(LearnerLostError, match="rank 1"):
            await scene.publish(1)
        scene.learners.is_lost = False
        assert await scene.publish(1) == ["share", "keep", "unshare"]


async def test_an_engine_that_joins_loads_nothing_once_the_learners_have_its_device() -> None:
    async with running() as scene:
        scene.learners.may_store.clear()
        scene.learners.calls.clear()
        scene.factory.started[0].kill()
        async with asyncio.timeout(5):
            while "stored" not in scene.learners.calls:  # noqa: ASYNC110 (a list, not an event)
                await asyncio.sleep(0.001)
        await scene.pool.sleep()
        scene.learners.may_store.set()
        await asyncio.sleep(0.05)
        assert scene.factory.started[2].version == -1
        await scene.publish(1)
        await until_serving(scene.pool, 2)
        assert scene.versions == [1, 1]
