"""The pool loses no request, whatever happens to its workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from doubles.loop import make_config, make_prompt
from doubles.workers import ScriptedFactory, ScriptedWorker

from actors.bench.doubles import make_update
from actors.interfaces import PublishReport
from actors.rollout.pool import ElasticRolloutPool
from maspo_dist.config import TrainConfig
from maspo_dist.errors import (
    ActorDiedError,
    LearnerLostError,
    PlacementError,
    PoisonPromptError,
    StragglerError,
    WeightSyncError,
)
from maspo_dist.types import Event, GroupReport, RolloutRequest, Sampling

FAST = {"restart_backoff_s": 0.0, "heartbeat_s": 0.01, "heartbeat_timeout_s": 0.02}


def config(workers: object = 2, cluster: dict[str, object] | None = None, **rollout: object) -> TrainConfig:
    return make_config(rollout={"workers": workers, **rollout}, cluster={**FAST, **(cluster or {})})


def request(group_id: int) -> RolloutRequest:
    return RolloutRequest(
        group_id=group_id,
        prompt=make_prompt(group_id),
        num_samples=2,
        sampling=Sampling(temperature=1.0, max_response_tokens=8),
        seed=group_id,
    )


@asynccontextmanager
async def running(
    factory: ScriptedFactory, settings: TrainConfig | None = None
) -> AsyncIterator[tuple[ElasticRolloutPool, list[Event]]]:
    events: list[Event] = []
    pool = ElasticRolloutPool(settings or config(), factory, events.append)
    try:
        await pool.start()
        await publish(pool, 0)
        yield pool, events
    finally:
        await pool.stop()
    assert not factory.living


async def publish(pool: ElasticRolloutPool, version: int) -> PublishReport:
    return await pool.publish(make_update(version))


async def generate(pool: ElasticRolloutPool, groups: range) -> list[GroupReport]:
    results = await asyncio.gather(*(pool.generate(request(group)) for group in groups))
    return [report for report, _ in results]


def sent_to(factory: ScriptedFactory, group_id: int) -> list[int]:
    """The workers that got the group, in order."""
    return [index for index, request in factory.requests if request.group_id == group_id]


async def until_serving(pool: ElasticRolloutPool, workers: int) -> None:
    async with asyncio.timeout(5):
        while [worker.state for worker in pool.status()] != ["serving"] * workers:  # noqa: ASYNC110 (a condition of its parts)
            await asyncio.sleep(0.001)


async def test_requests_are_spread_over_the_workers() -> None:
    factory = ScriptedFactory(seconds=0.01)
    async with running(factory) as (pool, _):
        reports = await generate(pool, range(8))
    assert sorted(report.group_id for report in reports) == list(range(8))
    assert [index for index, _ in factory.requests] == [0, 1] * 4


async def test_groups_of_a_killed_worker_go_elsewhere_and_each_is_answered_once() -> None:
    factory = ScriptedFactory(seconds=0.01)

    async def kill_after_third(worker: ScriptedWorker, subject: object) -> None:
        if worker.index == 1 and len(factory.requests) >= 6 and worker in factory.started[:2]:
            worker.kill()

    factory.hooks["generate"] = kill_after_third
    async with running(factory) as (pool, events):
        reports = await generate(pool, range(10))
        await until_serving(pool, 2)
    assert sorted(report.group_id for report in reports) == list(range(10))
    assert {len(sent_to(factory, group)) for group in range(10)} == {1, 2}
    assert [event.kind for event in events] == ["worker_lost", "worker_recovered"]
    assert dict(events[1].details)["seconds"] >= 0


async def test_other_workers_serve_while_the_replacement_starts() -> None:
    factory = ScriptedFactory()
    async with running(factory) as (pool, _):
        factory.start_s = 60.0
        factory.started[0].kill()
        reports = await generate(pool, range(4))
        assert (await publish(pool, 1)).version == 1
    assert sorted(factory.started[1].answered) == [report.group_id for report in reports] == list(range(4))


async def test_an_engine_that_hangs_is_found_by_its_ping_and_replaced() -> None:
    factory = ScriptedFactory()

    async def hang(worker: ScriptedWorker, subject: object) -> None:
        worker.hung = worker is factory.started[0]

    factory.hooks["generate"] = hang
    async with running(factory) as (pool, events):
        reports = await generate(pool, range(4))
    assert len(reports) == 4
    assert "ping: no answer within 0.02 s" in events[0].message


async def test_a_call_past_its_deadline_costs_the_worker_even_if_it_answers_pings() -> None:
    factory = ScriptedFactory(seconds=60.0)

    async def quick_unless_first(worker: ScriptedWorker, subject: object) -> None:
        factory.seconds = 60.0 if worker is factory.started[0] else 0.0

    factory.hooks["generate"] = quick_unless_first
    settings = config(cluster={"generate_timeout_s": 0.05})
    async with running(factory, settings) as (pool, events):
        await generate(pool, range(1))
    assert len(sent_to(factory, 0)) == 2
    assert "group 0 (prompt p0): no answer within 0.05 s" in events[0].message


async def test_a_prompt_that_kills_engines_is_set_aside_alone_and_its_neighbours_are_not() -> None:
    factory = ScriptedFactory(seconds=0.002)

    async def poison(worker: ScriptedWorker, subject: object) -> None:
        if isinstance(subject, RolloutRequest) and subject.group_id == 3:
            worker.kill()

    factory.hooks["generate"] = poison
    async with running(factory) as (pool, _):
        results = await asyncio.gather(*(pool.generate(request(group)) for group in range(12)), return_exceptions=True)
    assert [i for i, result in enumerate(results) if isinstance(result, BaseException)] == [3]
    assert isinstance(results[3], PoisonPromptError)
    assert "prompt p3 (group 3) was in flight on 3 rollout workers that died" in str(results[3])
    assert len(sent_to(factory, 3)) == 3


async def test_poison_prompts_do_not_use_up_the_restarts_of_a_slot() -> None:
    factory = ScriptedFactory()

    async def poison(worker: ScriptedWorker, subject: object) -> None:
        if isinstance(subject, RolloutRequest) and subject.group_id < 3:
            worker.kill()

    factory.hooks["generate"] = poison
    async with running(factory, config(workers=1, cluster={"max_worker_restarts": 3})) as (pool, _):
        for group in range(3):
            with pytest.raises(PoisonPromptError):
                await pool.generate(request(group))
        [report] = await generate(pool, range(3, 4))
    assert report.group_id == 3


async def test_workers_lost_with_their_nodes_do_not_count_against_their_groups() -> None:
    """The loss of the first node is noticed with that of the second: the first worker counts until then, not after."""
    factory = ScriptedFactory()

    async def lose_the_node(worker: ScriptedWorker, subject: object) -> None:
        if len(factory.started) == 2:
            factory.lost_nodes.add(worker.index)
        if len(factory.started) < 6:
            worker.kill()

    factory.hooks["generate"] = lose_the_node
    async with running(factory, config(workers=1, max_attempts=3)) as (pool, _):
        await generate(pool, range(2))
    assert [len(sent_to(factory, group)) for group in range(2)] == [6, 6]


async def test_groups_that_are_tried_alone_wait_for_each_other_however_long_the_queue_is() -> None:
    """Each takes 30 ms on the only worker; all together take longer than a worker may take to come."""
    factory = ScriptedFactory(seconds=0.03)
    deadlines = {
        "restart_backoff_max_s": 0.01,
        "start_timeout_s": 0.05,
        "publish_timeout_s": 0.05,
        "generate_timeout_s": 0.1,
    }
    settings = config(workers=1, max_attempts=2, cluster=deadlines)
    async with running(factory, settings) as (pool, _):
        generating = asyncio.create_task(generate(pool, range(16)))
        await asyncio.sleep(0.01)
        factory.started[0].kill()
        await generating
    assert settings.cluster.turn_deadline_s < 16 * 0.03
    assert {len(sent_to(factory, group)) for group in range(16)} == {2}


async def test_the_deadline_of_a_straggler_starts_at_its_worker_not_in_the_queue() -> None:
    factory = ScriptedFactory(start_s=0.0)
    async with running(factory, config(workers=1)) as (pool, _):
        factory.start_s = 0.2
        factory.started[0].kill()
        await pool.generate(replace(request(0), give_up_after_s=0.1))
        assert len(sent_to(factory, 0)) == 2
        factory.seconds = 60.0
        with pytest.raises(StragglerError, match=r"group 1 was not done within 0\.05 s on rollout worker 0"):
            await pool.generate(replace(request(1), give_up_after_s=0.05))
        assert all(status.groups_in_flight == 0 for status in pool.status())


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


async def test_a_worker_that_joins_serves_only_after_it_holds_the_current_weights() -> None:
    factory = ScriptedFactory(seconds=0.01)
    async with running(factory, config(workers=1)) as (pool, _):
        await publish(pool, 5)
        pool.scale(3)
        await until_serving(pool, 3)
        await generate(pool, range(6))
    assert factory.published == [(0, 0), (0, 5), (1, 5), (2, 5)]
    assert {worker.version for worker in factory.started} == {5}


async def test_scaling_up_leaves_the_workers_there_are() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=1)) as (pool, _):
        for workers in (2, 3, 5, 6):
            pool.scale(workers)
            await until_serving(pool, workers)
    assert len(factory.started) == 6


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


async def test_a_worker_that_leaves_during_a_publish_does_not_stop_it() -> None:
    factory = ScriptedFactory()
    async with running(factory, config(workers=2)) as (pool, _):

        async def end_under_it(worker: ScriptedWorker, subject: object) -> None:
            if worker.index == 1:
                pool.scale(1)
                raise RuntimeError("the engine was closed")

        factory.hooks["publish"] = end_under_it
        assert (await publish(pool, 1)).version == 1


async def test_a_group_whose_workers_left_often_is_not_set_aside() -> None:
    factory = ScriptedFactory(seconds=0.02)
    async with running(factory, config(workers=2)) as (pool, _):
        generating = asyncio.create_task(generate(pool, range(1)))
        for workers in (1, 2, 1, 2, 1):
            await asyncio.sleep(0.005)
            for place in pool.status():
                assert place.state in ("starting", "joining", "serving", "leaving")
            pool.scale(workers)
        [report] = await generating
    assert report.group_id == 0


async def test_a_pool_with_bounds_follows_the_room_in_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.rollout.pool._FOLLOW_S", 0.005)
    factory = ScriptedFactory(free=1)
    async with running(factory, config(workers={"min": 1, "max": 3})) as (pool, _):
        await asyncio.sleep(0.03)
        assert len(pool.status()) == 1
        factory.free = 10
        await until_serving(pool, 3)


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
    monkeypatch.setattr("actors.rollout.pool._FOLLOW_S", 0.005)
    factory = ScriptedFactory(free=3)
    async with running(factory, config(workers={"min": 1, "max": 3})) as (pool, _):
        await until_serving(pool, 3)
        factory.free = 0
        factory.start_failures = [PlacementError("no room")] * 2
        for worker in factory.started[1:]:
            worker.kill()
        await until_serving(pool, 1)


async def test_a_pool_that_was_scaled_by_hand_keeps_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.rollout.pool._FOLLOW_S", 0.005)
    factory = ScriptedFactory(free=10)
    async with running(factory, config(workers={"min": 1, "max": 3})) as (pool, _):
        await until_serving(pool, 3)
        pool.scale(1)
        await until_serving(pool, 1)
        await asyncio.sleep(0.03)
        assert len(pool.status()) == 1


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


async def test_a_timeout_inside_a_worker_is_not_a_straggler() -> None:
    factory = ScriptedFactory()

    async def bug(worker: ScriptedWorker, subject: object) -> None:
        raise TimeoutError("of its own")

    factory.hooks["generate"] = bug
    async with running(factory) as (pool, _):
        with pytest.raises(TimeoutError, match="of its own"):
            await pool.generate(request(0))


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


async def test_a_cancelled_group_leaves_nothing_in_flight() -> None:
    factory = ScriptedFactory(seconds=0.01)
    async with running(factory) as (pool, _):
        task = asyncio.create_task(pool.generate(request(0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(status.groups_in_flight == 0 for status in pool.status())
