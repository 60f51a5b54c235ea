"""Requests go to the least loaded worker, and each is answered once whatever happens to workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from doubles.pool import config, generate, publish, request, running, sent_to, until_serving
from doubles.virtual_clock import run_virtually
from doubles.workers import ScriptedFactory, ScriptedWorker

from actors.ray.waits import cancel_all
from maspo_dist.errors import (
    StragglerError,
)
from maspo_dist.runs.rows import Event


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


def test_a_worker_that_samples_tokens_keeps_its_groups_however_long_they_take() -> None:
    """A group takes ten times `generate_timeout_s`, and tokens come until its end."""
    factory = ScriptedFactory(seconds=1000.0)

    async def run() -> list[Event]:
        settings = config(workers=1, cluster={"generate_timeout_s": 100, "heartbeat_s": 10})
        async with running(factory, settings) as (pool, events):
            factory.started[0].tokens = lambda: int(asyncio.get_running_loop().time() / 20)
            assert [report.group_id for report in await generate(pool, range(2))] == [0, 1]
        return events

    assert not run_virtually(run(), 2000)


def test_a_worker_whose_tokens_stop_is_found_after_generate_timeout() -> None:
    factory = ScriptedFactory(seconds=5000.0)

    async def run() -> tuple[float, str]:
        settings = config(workers=1, cluster={"generate_timeout_s": 100, "heartbeat_s": 10})
        async with running(factory, settings) as (pool, events):
            factory.started[0].tokens = lambda: int(min(300.0, asyncio.get_running_loop().time()))
            generating = asyncio.create_task(generate(pool, range(1)))
            while not events:  # noqa: ASYNC110 (a list, not an event)
                await asyncio.sleep(1)
            await cancel_all([generating])
            return asyncio.get_running_loop().time(), events[0].message

    found_s, message = run_virtually(run(), 5000)
    assert 400 <= found_s <= 412
    assert "group 0 (prompt p0): no answer within 4" in message


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


async def test_a_timeout_inside_a_worker_is_not_a_straggler() -> None:
    factory = ScriptedFactory()

    async def bug(worker: ScriptedWorker, subject: object) -> None:
        raise TimeoutError("of its own")

    factory.hooks["generate"] = bug
    async with running(factory) as (pool, _):
        with pytest.raises(TimeoutError, match="of its own"):
            await pool.generate(request(0))


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
