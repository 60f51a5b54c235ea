"""Workers by node: the publish of stored weights, which they may share, and which lost workers have a living node."""

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


async def of_living_nodes(lost: Sequence[RunningWorker]) -> list[RunningWorker]:
    """Workers of `lost` whose nodes still live: the death of a whole node does not count against a prompt.

    A cluster notices the loss of a node seconds later, so this checks the workers of earlier losses again.
    """
    gone = await asyncio.gather(*(worker.is_gone_with_its_node() for worker in lost))
    return [worker for worker, is_gone in zip(lost, gone, strict=True) if not is_gone]
