"""A publish reaches every worker that serves, and every worker that joins before it serves."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from doubles.pool import config, generate, publish, running, until_serving
from doubles.virtual_clock import run_virtually
from doubles.workers import ScriptedFactory, ScriptedWorker

from actors.ray.waits import cancel_all
from maspo_dist.errors import (
    LearnerLostError,
    WeightSyncError,
)


async def test_a_worker_that_joins_serves_only_after_it_holds_the_current_weights() -> None:
    factory = ScriptedFactory(seconds=0.01)
    async with running(factory, config(workers=1)) as (pool, _):
        await publish(pool, 5)
        pool.scale(3)
        await until_serving(pool, 3)
        await generate(pool, range(6))
    assert factory.published == [(0, 0), (0, 5), (1, 5), (2, 5)]
    assert {worker.version for worker in factory.started} == {5}


async def test_weights_published_while_a_worker_joins_reach_it_before_it_serves() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, _):
        joining, go_on = asyncio.Event(), asyncio.Event()

        async def slow_first_publish(worker: ScriptedWorker, subject: object) -> None:
            if worker.index == 1 and worker.version == -1:
                joining.set()
                await go_on.wait()

        factory.hooks["publish"] = slow_first_publish
        pool.scale(2)
        await joining.wait()
        await publish(pool, 1)
        go_on.set()
        await until_serving(pool, 2)
    assert factory.published == [(0, 0), (0, 1), (1, 0), (1, 1)]


async def test_a_worker_that_leaves_during_a_publish_does_not_stop_it() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=2)) as (pool, _):

        async def end_under_it(worker: ScriptedWorker, subject: object) -> None:
            if worker.index == 1:
                pool.scale(1)
                raise RuntimeError("the engine was closed")

        factory.hooks["publish"] = end_under_it
        assert (await publish(pool, 1)).version == 1


async def test_one_worker_of_a_node_receives_the_weights_for_all() -> None:
    factory = ScriptedFactory(nodes={0: "a", 1: "b", 2: "a"})
    async with running(factory, config(workers=3)) as (pool, _):
        factory.published.clear()
        factory.staged_by.clear()
        await publish(pool, 1)
    first = "rollout worker 0"
    assert dict(zip(factory.published, factory.staged_by, strict=True)) == {(0, 1): first, (1, 1): None, (2, 1): first}


@pytest.mark.parametrize("is_dead", [True, False])
async def test_workers_receive_for_themselves_when_the_first_of_their_node_cannot(is_dead: bool) -> None:
    factory = ScriptedFactory(nodes={0: "a", 1: "a"})
    async with running(factory, config(workers=2)) as (pool, _):
        factory.published.clear()
        factory.staged_by.clear()

        async def fail(worker: ScriptedWorker, subject: object) -> None:
            if is_dead:
                worker.kill()
            else:
                raise WeightSyncError("rollout worker 0 received other bytes than were exported for version 1")

        factory.hooks["stage"] = fail
        await publish(pool, 1)
        assert factory.published[0] == ((1, 1) if is_dead else (0, 1))
        assert (1, 1) in factory.published
        assert set(factory.staged_by) == {None}


async def test_a_worker_lost_during_a_publish_does_not_stop_it() -> None:
    factory = ScriptedFactory()
    async with running(factory) as (pool, _):

        async def die(worker: ScriptedWorker, subject: object) -> None:
            if worker is factory.started[0]:
                worker.kill()

        factory.hooks["publish"] = die
        assert (await publish(pool, 1)).max_logprob_gap == pytest.approx(1e-6)
        await until_serving(pool, 2)
        assert {status.version for status in pool.status()} == {1}


async def test_a_publish_during_which_all_workers_die_ends_with_their_replacement() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, _):
        factory.started[0].kill()
        assert (await publish(pool, 1)).version == 1
        [report] = await generate(pool, range(1))
        assert np.all(report.oldest_version == 1)


async def test_weights_lost_with_their_learner_cost_no_worker() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=2)) as (pool, events):

        async def gone(worker: ScriptedWorker, subject: object) -> None:
            raise LearnerLostError("the weights of policy version 1 are gone")

        factory.hooks["publish"] = gone
        with pytest.raises(LearnerLostError, match="version 1 are gone"):
            await publish(pool, 1)
        pool.scale(3)
        async with asyncio.timeout(5):
            while [status.state for status in pool.status()] != ["serving", "serving", "joining"]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        del factory.hooks["publish"]
        await publish(pool, 0)
        await until_serving(pool, 3)
    assert len(factory.started) == 3
    assert [event.kind for event in events] == ["scale"]


async def test_a_publish_wakes_a_worker_that_waits_for_weights_when_none_serves() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, _):

        async def gone(worker: ScriptedWorker, subject: object) -> None:
            raise LearnerLostError("the weights of policy version 0 are gone")

        factory.hooks["publish"] = gone
        factory.started[0].kill()
        async with asyncio.timeout(5):
            while [status.state for status in pool.status()] != ["joining"]:  # noqa: ASYNC110 (a condition of its parts)
                await asyncio.sleep(0.001)
            with pytest.raises(LearnerLostError, match="no rollout worker serves"):
                await generate(pool, range(1))
            del factory.hooks["publish"]
            assert (await publish(pool, 0)).version == 0
            await generate(pool, range(1))
    assert len(factory.started) == 2


async def test_an_engine_that_hangs_in_a_publish_is_found_by_its_ping() -> None:
    factory = ScriptedFactory()
    async with running(factory) as (pool, events):

        async def hang(worker: ScriptedWorker, subject: object) -> None:
            worker.hung = worker is factory.started[0]

        factory.hooks["publish"] = hang
        assert (await publish(pool, 1)).version == 1
    assert "ping: no answer within 0.02 s" in events[0].message


async def test_a_failed_proof_ends_the_publish() -> None:
    factory = ScriptedFactory()
    async with running(factory) as (pool, _):

        async def stale(worker: ScriptedWorker, subject: object) -> None:
            raise WeightSyncError("rollout worker 1 does not hold policy version 1")

        factory.hooks["publish"] = stale
        with pytest.raises(WeightSyncError, match="does not hold"):
            await publish(pool, 1)


async def test_without_in_flight_updates_a_publish_waits_for_requests_to_end() -> None:
    factory = ScriptedFactory(seconds=0.03)
    async with running(factory, config(in_flight_updates=False)) as (pool, _):
        generating = asyncio.create_task(generate(pool, range(2)))
        await asyncio.sleep(0.01)
        publishing = asyncio.create_task(publish(pool, 1))
        await asyncio.sleep(0)
        late = asyncio.create_task(generate(pool, range(2, 4)))
        await publishing
        assert generating.done() or all(report.oldest_version.max() == 0 for report in await generating)
        assert all(report.oldest_version.min() == 1 for report in await late)


def test_a_publish_that_waits_for_requests_outlives_the_deadline_of_a_hung_request() -> None:
    factory = ScriptedFactory(seconds=5000.0)

    async def run() -> tuple[int, list[str]]:
        settings = config(workers=1, in_flight_updates=False, cluster={"generate_timeout_s": 100, "heartbeat_s": 10})
        async with running(factory, settings) as (pool, events):
            # The last token comes after the publish has begun to wait.
            factory.started[0].tokens = lambda: int(min(50.0, asyncio.get_running_loop().time()))
            generating = asyncio.create_task(generate(pool, range(1)))
            await asyncio.sleep(5)
            report = await publish(pool, 1)
            await cancel_all([generating])
            return report.version, [event.kind for event in events]

    assert run_virtually(run(), 5000) == (1, ["worker_lost", "worker_recovered"])


async def test_a_publish_whose_weights_and_engines_are_lost_together_ends_at_once() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=2)) as (pool, _):

        async def lose_the_node(worker: ScriptedWorker, subject: object) -> None:
            if len(factory.started) == 2:
                worker.kill()
            else:
                raise LearnerLostError("the weights were lost with the learner that held them")

        factory.hooks["publish"] = lose_the_node
        with pytest.raises(LearnerLostError, match="no rollout worker serves, and the weights were lost"):
            async with asyncio.timeout(5):
                await publish(pool, 1)


async def test_a_worker_that_joins_takes_a_version_again_that_a_new_learner_has_made_again() -> None:
    factory = ScriptedFactory()
    loaded: list[object] = []
    async with running(factory, config(workers=1)) as (pool, _):
        joining, go_on = asyncio.Event(), asyncio.Event()

        async def slow_first_publish(worker: ScriptedWorker, subject: object) -> None:
            if worker.index == 1:
                loaded.append(subject)
                if worker.version == -1:
                    joining.set()
                    await go_on.wait()

        await publish(pool, 5)
        factory.hooks["publish"] = slow_first_publish
        pool.scale(2)
        await joining.wait()
        await publish(pool, 4)
        await publish(pool, 5)
        go_on.set()
        await until_serving(pool, 2)
    first, last = loaded[0], loaded[-1]
    assert first is not last
    assert factory.published[-1] == (1, 5)
