"""Waiting for a place in a cluster that is full."""

from __future__ import annotations

import asyncio

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.places import reserve, room_for
from maspo_dist.placement import Bundle

#: Ray's own sockets and processes, in a process that joins a cluster again; they are closed when collected.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.usefixtures("joined")]


def processes(count: int, cpus: float) -> list[Bundle]:
    return [Bundle(role="rollout", count=count, cpus=cpus, gpus=0, memory_bytes=0, what="")]


async def test_a_place_is_given_as_soon_as_there_is_room() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    first = await reserve(processes(2, cpus=1), 10, told.put_nowait)
    second = asyncio.ensure_future(reserve(processes(1, cpus=2), 30, told.put_nowait))
    assert await told.get() == "a place for 1 processes; free now: 0 CPU, 0 GPU"
    ray.util.remove_placement_group(first)
    assert (await second).bundle_specs == [{"CPU": 2.0}]


def test_room_is_counted_by_node(ray_cluster: Cluster) -> None:
    """Two of the three cores that are free lie together."""
    node = ray_cluster.add_node(num_cpus=1, object_store_memory=10**8)
    try:
        assert [room_for(*processes(1, cpus)) for cpus in (1, 1.5, 2, 3)] == [3, 1, 1, 0]
    finally:
        ray_cluster.remove_node(node)


async def test_many_who_wait_for_a_place_leave_the_threads_to_others() -> None:
    waiting = [asyncio.ensure_future(reserve(processes(1, cpus=100), 3, None)) for _ in range(200)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(2):
        for _ in range(10):
            await asyncio.to_thread(lambda: None)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert {repr(error) for error in ended} == {
        "PlacementError('1 processes found no room within 3 s (free now: 2 CPU, 0 GPU): "
        "the cluster is busy with other jobs, or a node is gone')"
    }
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}
