"""The real pool over scripted workers, with short deadlines, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.bench.doubles import make_update
from actors.interfaces import PublishReport
from actors.rollout.pool import ElasticRolloutPool
from doubles.loop import make_config, make_prompt
from doubles.workers import ScriptedFactory
from maspo_dist.config import TrainConfig
from maspo_dist.runs.rows import Event
from maspo_dist.types import GroupReport, RolloutRequest, Sampling

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
