"""Publishes of weights that lie in the object store. The workers of a node may share what one of them received."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from actors.interfaces import PublishReport, WeightUpdate
from actors.rollout.direct import Outcome
from actors.rollout.worker_slot import RunningWorker


async def publish_by_node(workers: Sequence[RunningWorker], update: WeightUpdate, *, is_shared: bool) -> list[Outcome]:
    """What each of `workers` reports or raises, on all nodes at once.

    `is_shared`: the first worker of a node receives the weights for all workers there.
    """
    nodes: dict[str, list[RunningWorker]] = {}
    for worker in workers:
        nodes.setdefault(worker.handle.node_id, []).append(worker)
    done = await asyncio.gather(*(_publish_on_node(part, update, is_shared=is_shared) for part in nodes.values()))
    return [outcome for of_node in done for outcome in of_node]


async def _publish_on_node(workers: Sequence[RunningWorker], update: WeightUpdate, *, is_shared: bool) -> list[Outcome]:
    started_s = asyncio.get_running_loop().time()
    staged = await workers[0].stage(update) if is_shared and len(workers) > 1 else None
    staging_s = asyncio.get_running_loop().time() - started_s
    done = await asyncio.gather(*(worker.try_publish(update, staged) for worker in workers), return_exceptions=True)
    return [
        replace(part, transfer_s=part.transfer_s + staging_s) if isinstance(part, PublishReport) else part
        for part in done
    ]
