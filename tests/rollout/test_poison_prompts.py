"""A prompt that kills workers is set aside; the groups that ran beside it are not."""

from __future__ import annotations

import asyncio

import pytest
from doubles.pool import config, generate, request, running, sent_to
from doubles.virtual_clock import run_virtually
from doubles.workers import ScriptedFactory, ScriptedWorker

from maspo_dist.errors import (
    PoisonPromptError,
)
from maspo_dist.types import RolloutRequest


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
    """The cluster notices the loss of the first node only together with that of the second. Until then the first
    worker's death counts against the group; afterwards it does not.
    """
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


async def test_a_group_whose_workers_left_often_is_not_set_aside() -> None:
    factory = ScriptedFactory(seconds=0.02)
    async with running(factory, config(workers=2)) as (pool, _):
        generating = asyncio.create_task(generate(pool, range(1)))
        for workers in (1, 2, 1, 2, 1):
            await asyncio.sleep(0.005)
            for slot in pool.status():
                assert slot.state in ("starting", "joining", "serving", "leaving")
            pool.scale(workers)
        [report] = await generating
    assert report.group_id == 0


def test_a_group_outlives_poison_prompts_that_each_cost_the_only_worker_a_start() -> None:
    """Five restarts of 900 s each are longer than a worker may take to come."""
    factory = ScriptedFactory(start_s=900.0)
    deadlines = {"start_timeout_s": 1000, "publish_timeout_s": 100, "generate_timeout_s": 300, "heartbeat_s": 30}
    settings = config(workers=1, max_attempts=2, cluster=deadlines)

    async def poison(worker: ScriptedWorker, subject: object) -> None:
        if isinstance(subject, RolloutRequest) and subject.group_id < 4:
            worker.kill()

    async def run() -> list[object]:
        factory.hooks["generate"] = poison
        async with running(factory, settings) as (pool, _):
            groups = (pool.generate(request(group)) for group in range(5))
            return list(await asyncio.gather(*groups, return_exceptions=True))

    *poisoned, (report, _) = run_virtually(run(), 20_000)
    assert all(isinstance(error, PoisonPromptError) for error in poisoned)
    assert report.group_id == 4
    assert settings.cluster.turn_deadline_s < 5 * 900
