"""What Ray tells of workers whose nodes are gone."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.boundaries import ActorProcess
from actors.ray_worker import RayRolloutWorker
from maspo_dist.errors import ActorDiedError

#: Ray's own sockets and processes, in a process that joins a cluster again; they are closed when collected.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.usefixtures("joined")]


class Somewhere:
    """As much of a rollout actor as tells where it is."""

    def start(self) -> ActorProcess:
        return ActorProcess(node_id=ray.get_runtime_context().get_node_id(), pid=os.getpid())

    def ping(self) -> None:
        pass


async def started_on(node_id: str) -> tuple[RayRolloutWorker, ActorProcess]:
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    handle: Any = ray.remote(Somewhere).options(num_cpus=0, scheduling_strategy=place).remote()
    worker = RayRolloutWorker("rollout worker 0", handle, release=lambda: None)
    return worker, await worker.start()


async def test_a_worker_that_was_killed_is_not_taken_for_one_whose_node_is_gone(ray_cluster: Cluster) -> None:
    worker, process = await started_on(ray_cluster.head_node.node_id)
    os.kill(process.pid, 9)
    with pytest.raises(ActorDiedError):
        await worker.ping()
    assert not await worker.is_gone_with_its_node()


async def test_a_worker_is_known_to_be_gone_with_its_node(ray_cluster: Cluster) -> None:
    node = ray_cluster.add_node(num_cpus=1, object_store_memory=10**8)
    worker, _ = await started_on(node.node_id)
    assert not await worker.is_gone_with_its_node()
    ray_cluster.remove_node(node)
    async with asyncio.timeout(60):
        while not await worker.is_gone_with_its_node():  # noqa: ASYNC110 (the cluster tells nobody)
            await asyncio.sleep(0.2)
