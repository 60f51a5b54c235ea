"""Engines leave their devices to learners, and a lost engine starts again in the turn of the engines only."""

from __future__ import annotations

import asyncio

from doubles.loop import make_config
from doubles.pool import FAST, generate, publish, request, running, until_serving
from doubles.workers import ScriptedFactory, ScriptedWorker

from maspo_dist.config import TrainConfig
from maspo_dist.errors import LearnerLostError


def colocated() -> TrainConfig:
    return make_config(rollout={"workers": 2}, learner={"ranks": 2}, cluster={**FAST, "layout": "colocated"})


async def test_requests_wait_from_the_sleep_of_the_engines_to_the_end_of_the_next_publish() -> None:
    factory = ScriptedFactory()
    async with running(factory, colocated()) as (pool, _):
        await pool.sleep()
        assert sorted(factory.slept) == [0, 1]
        waiting = asyncio.ensure_future(pool.generate(request(7)))
        await asyncio.sleep(0.05)
        assert factory.requests == []
        await publish(pool, 1)
        await waiting
        assert [worker.version for worker in factory.started] == [1, 1]


async def test_engines_sleep_once_their_requests_have_ended() -> None:
    factory = ScriptedFactory(seconds=0.05)
    async with running(factory, colocated()) as (pool, _):
        groups = asyncio.ensure_future(generate(pool, range(2)))
        await asyncio.sleep(0.01)
        await pool.sleep()
        assert groups.done()
        assert [worker.answered for worker in factory.started] == [[0], [1]]


async def test_an_engine_that_dies_asleep_starts_again_after_the_next_publish_has_begun() -> None:
    factory = ScriptedFactory()
    async with running(factory, colocated()) as (pool, events):
        await pool.sleep()
        factory.started[0].kill()
        await asyncio.sleep(0.1)
        assert len(factory.started) == 2
        await publish(pool, 1)
        await until_serving(pool, 2)
        assert [worker.index for worker in factory.started] == [0, 1, 0]
        assert factory.started[2].version == 1
    assert "worker_lost" in [event.kind for event in events]


async def test_learners_wait_for_an_engine_that_is_starting() -> None:
    factory = ScriptedFactory()
    async with running(factory, colocated()) as (pool, _):
        factory.start_s = 0.1
        factory.started[0].kill()
        while not any(worker.state == "starting" for worker in pool.status()):  # noqa: ASYNC110 (a condition of its parts)
            await asyncio.sleep(0.001)
        await pool.sleep()
        assert len(factory.started) == 3
        assert sorted(factory.slept) == [0, 1]


async def test_an_engine_that_does_not_fall_asleep_is_killed_before_learners_take_its_device() -> None:
    factory = ScriptedFactory()
    async with running(factory, colocated()) as (pool, _):

        async def hang(worker: ScriptedWorker, subject: object) -> None:
            if worker.index == 1:
                worker.hung = True

        factory.hooks["sleep"] = hang
        await pool.sleep()
        assert [worker.index for worker in factory.living] == [0]


async def test_an_engine_that_dies_while_it_waits_for_weights_holds_no_learner_up() -> None:
    factory = ScriptedFactory()
    async with running(factory, colocated()) as (pool, _):

        async def lose_weights(worker: ScriptedWorker, subject: object) -> None:
            raise LearnerLostError("the weights were lost with the learner")

        factory.hooks["publish"] = lose_weights
        factory.started[0].kill()
        while [worker.state for worker in pool.status()] != ["joining", "serving"]:  # noqa: ASYNC110 (a condition of its parts)
            await asyncio.sleep(0.001)

        async def die(worker: ScriptedWorker, subject: object) -> None:
            if worker.index == 0:
                worker.kill()

        factory.hooks["sleep"] = die
        async with asyncio.timeout(5):
            await pool.sleep()
        assert [worker.index for worker in factory.living] == [1]


async def test_the_number_of_engines_that_share_devices_does_not_change() -> None:
    factory = ScriptedFactory()
    async with running(factory, colocated()) as (pool, events):
        pool.scale(3)
        assert len(pool.status()) == 2
    assert [event.kind for event in events] == ["scale"]
    assert "cluster.layout" in events[0].message
