"""The pool starts, replaces and ends workers, on request or as the cluster has room."""

from __future__ import annotations

import asyncio

import pytest
from doubles.pool import config, generate, publish, running, until_serving
from doubles.workers import ScriptedFactory, ScriptedWorker
from ray.exceptions import RpcError

from actors.rollout.pool import ElasticRolloutPool
from maspo_dist.errors import ActorDiedError, ConfigError, PlacementError
from maspo_dist.runs.rows import Event


async def test_a_slot_that_keeps_losing_workers_is_closed_and_the_last_slot_ends_the_run() -> None:
    factory = ScriptedFactory()
    settings = config(workers=1, cluster={"max_worker_restarts": 2})
    async with running(factory, settings) as (pool, events):
        async with asyncio.timeout(5):
            for losses in range(1, 4):
                await until_serving(pool, 1)
                factory.started[-1].kill()
                while sum(event.kind == "worker_lost" for event in events) < losses:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        with pytest.raises(ActorDiedError, match="rollout worker 0"):
            await generate(pool, range(1))
    assert [event.message.rpartition("; ")[2] for event in events if event.kind == "worker_lost"] == [
        "replaced in 0 s",
        "replaced in 0 s",
        "the slot is closed",
    ]


async def test_a_worker_that_cannot_start_ends_the_start_of_the_pool_with_its_cause() -> None:
    factory = ScriptedFactory(start_failures=[ActorDiedError("rollout worker 0: start: no such model")])
    pool = ElasticRolloutPool(config(), factory, lambda _: None)
    with pytest.raises(ActorDiedError, match="no such model"):
        await pool.start()
    await pool.stop()
    assert not factory.living


BROKEN_NODES = [ConfigError("on node bad torch sees no GPU"), OSError(28, "No space left on device")]


@pytest.mark.parametrize("error", BROKEN_NODES, ids=["user error", "other error"])
async def test_a_node_that_cannot_run_an_engine_costs_restarts_of_a_slot_and_not_the_run(error: Exception) -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=2, cluster={"max_worker_restarts": 2})) as (pool, events):
        factory.start_failures = [error, error]
        factory.started[0].kill()
        async with asyncio.timeout(5):
            while len(pool.status()) == 2:  # noqa: ASYNC110 (a property, not an event)
                await asyncio.sleep(0.001)
        await generate(pool, range(3))
    assert [event.kind for event in events] == ["worker_lost"] * 3
    assert all(str(error) in event.message for event in events[1:])
    assert events[-1].message.endswith("; the slot is closed")


@pytest.mark.parametrize("error", BROKEN_NODES, ids=["user error", "other error"])
async def test_an_engine_that_does_not_start_a_second_time_is_started_a_third_time(error: Exception) -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, events):
        factory.start_failures = [error]
        factory.started[0].kill()
        await generate(pool, range(1))
    assert [event.kind for event in events] == ["worker_lost", "worker_lost", "worker_recovered"]


async def test_a_configuration_that_no_engine_can_run_ends_the_start_of_the_pool_at_once() -> None:
    factory = ScriptedFactory(start_failures=[ConfigError("rollout.engine: no such argument")])
    pool = ElasticRolloutPool(config(), factory, lambda _: None)
    with pytest.raises(ConfigError, match=r"rollout\.engine"):
        await pool.start()
    await pool.stop()


async def test_a_worker_that_dies_between_the_start_and_the_first_publish_is_replaced() -> None:
    factory, events = ScriptedFactory(), list[Event]()
    pool = ElasticRolloutPool(config(workers=1), factory, events.append)
    try:
        await pool.start()
        factory.started[0].kill()
        async with asyncio.timeout(5):
            while len(factory.started) < 2:  # noqa: ASYNC110 (a list, not an event)
                await asyncio.sleep(0.001)
        await publish(pool, 0)
        await until_serving(pool, 1)
    finally:
        await pool.stop()
    assert [event.kind for event in events] == ["worker_lost", "worker_recovered"]


async def test_scaling_up_leaves_the_workers_there_are() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, _):
        for workers in (2, 3, 5, 6):
            pool.scale(workers)
            await until_serving(pool, workers)
    assert len(factory.started) == 6


async def test_a_worker_that_leaves_hands_its_requests_back_first() -> None:
    factory = ScriptedFactory(seconds=0.05)
    async with running(factory, config(workers=3)) as (pool, events):
        generating = asyncio.create_task(generate(pool, range(9)))
        await asyncio.sleep(0.01)
        pool.scale(1)
        reports = await generating
        await until_serving(pool, 1)
    assert sorted(report.group_id for report in reports) == list(range(9))
    assert sorted(factory.started[0].answered) == list(range(9))
    assert [worker.stopped for worker in factory.started[1:]] == [True, True]
    assert [event.message for event in events] == ["rollout workers: 3 → 1"]


async def test_a_worker_that_is_no_longer_wanted_before_it_is_up_never_serves() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, events):
        factory.start_s = 60.0
        pool.scale(3)
        await asyncio.sleep(0.01)
        pool.scale(1)
        await until_serving(pool, 1)
        assert len(factory.started) == 1
    assert [event.kind for event in events] == ["scale", "scale"]


async def test_a_worker_that_dies_while_it_leaves_is_not_reported_as_lost() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, events):
        joining, go_on = asyncio.Event(), asyncio.Event()

        async def die_when_told(worker: ScriptedWorker, subject: object) -> None:
            joining.set()
            await go_on.wait()
            worker.kill()

        factory.hooks["publish"] = die_when_told
        pool.scale(2)
        await joining.wait()
        pool.scale(1)
        go_on.set()
        await until_serving(pool, 1)
    assert [event.kind for event in events] == ["scale", "scale"]


async def test_a_pool_with_bounds_follows_the_room_in_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.rollout.growth._FOLLOW_S", 0.005)
    factory = ScriptedFactory(free=1)
    async with running(factory, config(workers={"min": 1, "max": 3})) as (pool, _):
        await asyncio.sleep(0.03)
        assert [worker.state for worker in pool.status()] == ["serving", "waiting"], "one asks for room, no more"
        factory.free = 10
        await until_serving(pool, 3)


async def test_a_pool_with_bounds_goes_on_while_the_cluster_does_not_say_what_room_it_has(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class SilentForOnce(ScriptedFactory):
        looks = 0

        async def room(self) -> int:
            self.looks += 1
            if self.looks == 1:
                raise RpcError("no answer")
            return await super().room()

    monkeypatch.setattr("actors.rollout.growth._FOLLOW_S", 0.005)
    factory = SilentForOnce(free=3)
    async with running(factory, config(workers={"min": 1, "max": 3})) as (pool, _):
        await until_serving(pool, 3)
        await generate(pool, range(3))
    assert "the cluster does not say what room it has" in caplog.text


async def test_a_pool_with_bounds_asks_for_one_node_at_a_time_and_tells_once_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.rollout.growth._FOLLOW_S", 0.005)
    factory = ScriptedFactory(free=1)
    settings = config(workers={"min": 1, "max": 4}, cluster={"node_timeout_s": 0.05})
    async with running(factory, settings) as (pool, events):
        async with asyncio.timeout(10):
            while factory.place_timeouts_s.count(0.05) < 3:
                assert len(pool.status()) <= 2
                await asyncio.sleep(0.001)
        assert [event.kind for event in events] == ["worker_waits"]
        assert events[0].message == ("no room within 0.05 s (scripted); the cluster is asked again every 0.1 s")
        factory.free = 4
        await until_serving(pool, 4)
    assert factory.place_timeouts_s[0] == settings.cluster.place_timeout_s


async def test_a_pool_with_bounds_starts_while_the_cluster_has_no_node_for_more_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A learner may load its model for longer than a node may take to come."""
    monkeypatch.setattr("actors.rollout.growth._FOLLOW_S", 0.005)
    factory, events = ScriptedFactory(free=1), list[Event]()
    settings = config(workers={"min": 1, "max": 2}, cluster={"node_timeout_s": 0.01})
    pool = ElasticRolloutPool(settings, factory, events.append)
    try:
        await pool.start()
        async with asyncio.timeout(10):
            while factory.place_timeouts_s.count(0.01) < 3:  # noqa: ASYNC110 (a list, not an event)
                await asyncio.sleep(0.001)
        await publish(pool, 0)
        assert [report.group_id for report in await generate(pool, range(1))] == [0]
    finally:
        await pool.stop()
    assert [event.kind for event in events] == ["worker_waits"]


async def test_a_fixed_pool_keeps_the_slot_of_a_lost_node_until_there_is_room_again() -> None:
    factory = ScriptedFactory()
    settings = config(cluster={"restart_backoff_max_s": 0.01, "max_worker_restarts": 1})
    async with running(factory, settings) as (pool, events):
        factory.start_failures = [PlacementError("no room")] * 5
        factory.started[0].kill()
        async with asyncio.timeout(5):
            while factory.start_failures:  # noqa: ASYNC110 (a list, not an event)
                await asyncio.sleep(0.001)
        await until_serving(pool, 2)
    assert [event.kind for event in events] == ["worker_lost", "worker_waits", "worker_recovered"]


async def test_a_pool_with_bounds_closes_slots_of_lost_nodes_down_to_its_minimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.rollout.growth._FOLLOW_S", 0.005)
    factory = ScriptedFactory(free=3)
    async with running(factory, config(workers={"min": 1, "max": 3})) as (pool, _):
        await until_serving(pool, 3)
        factory.free = 0
        factory.start_failures = [PlacementError("no room")] * 2
        for worker in factory.started[1:]:
            worker.kill()
        async with asyncio.timeout(5):
            while [worker.state for worker in pool.status()] != ["serving", "waiting"]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_a_pool_that_was_scaled_by_hand_keeps_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.rollout.growth._FOLLOW_S", 0.005)
    factory = ScriptedFactory(free=10)
    async with running(factory, config(workers={"min": 1, "max": 3})) as (pool, _):
        await until_serving(pool, 3)
        pool.scale(1)
        await until_serving(pool, 1)
        await asyncio.sleep(0.03)
        assert len(pool.status()) == 1


async def test_a_worker_whose_node_leaves_hands_its_requests_back_and_starts_elsewhere() -> None:
    """No death is allowed here: neither the prompts nor the restarts of the slot count it."""
    factory = ScriptedFactory()
    settings = config(cluster={"max_worker_restarts": 0}, max_attempts=1)
    async with running(factory, settings) as (pool, events):
        busy, first = asyncio.Event(), factory.started[0]

        async def hold(worker: ScriptedWorker, subject: object) -> None:
            if worker is first:
                busy.set()
                await asyncio.Event().wait()

        factory.hooks["generate"] = hold
        generating = asyncio.create_task(generate(pool, range(4)))
        await busy.wait()
        in_flight = pool.status()[0].groups_in_flight
        assert in_flight > 0
        pool.leave_nodes({"node 0": 119.0, "node 7": 30.0})
        factory.nodes[0] = "another node"
        reports = await generating
        await until_serving(pool, 2)
        pool.leave_nodes({"node 0": 110.0})
    assert sorted(report.group_id for report in reports) == [0, 1, 2, 3]
    assert (first.stopped, first.answered) == (True, [])
    assert [worker.index for worker in factory.started] == [0, 1, 0]
    assert events[0].message == (
        f"rollout worker 0: its node leaves in 119 s; its groups in flight ({in_flight}) go to others"
    )
    assert [event.kind for event in events] == ["worker_moves", "worker_recovered"]
