"""Places in a cluster, the wait for one where it is full, and workers whose nodes go."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray
from doubles.faulty_actors import Somewhere
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.interfaces import ActorProcess
from actors.ray import nodes
from actors.ray.connection import connect
from actors.ray.nodes import has_autoscaler, leaving_nodes, shortage
from actors.ray.placement_groups import reserve, reserve_on_new_nodes, room_for, until_placed
from actors.rollout.actor import RayRolloutWorker
from faults.faulty_run import drain, extra_node, until
from maspo_dist.errors import ActorDiedError, PlacementError
from maspo_dist.planning.placement import Bundle

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


async def test_room_is_counted_by_node(ray_cluster: Cluster) -> None:
    """Two of the three free cores are on one node. Ray needs a moment to know of all three."""
    with extra_node(ray_cluster, labels={"pool": "spot"}) as node:
        async with asyncio.timeout(60):
            await until(lambda: [room_for(*processes(1, cpus)) for cpus in (1, 1.5, 2, 3)] == [3, 1, 1, 0])
        spot = replace(*processes(1, cpus=1), labels={"pool": "spot"})
        assert room_for(spot) == 1
        place = await reserve([spot], 30, None)
        assert ray.util.placement_group_table(place)["bundles_to_node_id"] == {0: node.node_id}
        with pytest.raises(PlacementError, match=r"too few nodes have the labels pool=spot of cluster\.labels"):
            await reserve([spot], 0.5, None)
        ray.util.remove_placement_group(place)


def test_a_cluster_without_an_autoscaler_refuses_what_its_nodes_lack() -> None:
    assert shortage(processes(2, cpus=1)) is None
    with pytest.raises(PlacementError, match="the run needs 3 CPU where the cluster has 2"):
        shortage(processes(3, cpus=1))


@pytest.fixture
def autoscaler(joined: None) -> Iterator[None]:
    """The cluster says what it says where an autoscaler runs: nodes by their kinds, here none but the head."""
    _internal_kv_put(DEBUG_AUTOSCALING_STATUS, json.dumps({"autoscaler_report": {"active_nodes": {"head": 1}}}), True)
    assert has_autoscaler()
    yield
    _internal_kv_del(DEBUG_AUTOSCALING_STATUS)


@pytest.mark.usefixtures("autoscaler")
async def test_places_on_nodes_that_an_autoscaler_adds_are_asked_for_together(ray_cluster: Cluster) -> None:
    groups = [processes(2, cpus=1), processes(1, cpus=1)]
    lack = shortage([*groups[0], *groups[1]])
    assert lack is not None
    assert lack.startswith("the run needs 3 CPU where the cluster has 2")
    told: list[str] = []
    places = asyncio.ensure_future(reserve_on_new_nodes(groups, lack, 60, told.append))
    async with asyncio.timeout(60):
        await until(lambda: bool(told))
    assert told == [f"nodes that the cluster may add within 60 s (cluster.node_timeout_s): {lack}"]
    with extra_node(ray_cluster):
        assert [len(place.bundle_specs) for place in await places] == [2, 1]
        for place in places.result():
            ray.util.remove_placement_group(place)


@pytest.mark.usefixtures("autoscaler")
async def test_nodes_that_do_not_come_are_named_and_no_place_is_kept() -> None:
    with pytest.raises(
        PlacementError, match=r"^the cluster added no such nodes within 1 s \(cluster.node_timeout_s\): 2"
    ):
        await reserve_on_new_nodes([processes(1, cpus=1), processes(1, cpus=9)], "2 more", 1, lambda _: None)
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}


@pytest.mark.usefixtures("autoscaler")
def test_the_device_is_not_decided_while_gpus_may_still_come() -> None:
    assert connect("cpu") == "cpu"
    assert connect("cuda") == "cuda"
    with pytest.raises(
        PlacementError, match=r"model\.device is auto, and the cluster has no GPU yet but may add nodes"
    ):
        connect("auto")


async def test_a_cluster_of_kuberay_has_an_autoscaler_where_its_head_has_no_monitor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray's flag for the newer autoscaler is set in every cluster of KubeRay."""
    monkeypatch.setattr(nodes, "is_autoscaler_v2", lambda **_: True)
    assert has_autoscaler()
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --num-cpus=0")
    assert not has_autoscaler()
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --no-monitor --num-cpus=0")
    assert has_autoscaler()


async def test_a_place_that_went_with_its_node_is_waited_for(ray_cluster: Cluster) -> None:
    spot = [replace(*processes(1, cpus=1), labels={"pool": "spot"})]
    with extra_node(ray_cluster, labels={"pool": "spot"}):
        place = await reserve(spot, 30, None)
        await until_placed(place, [{"pool": "spot"}], 5)

    async def is_lost() -> bool:
        table = await asyncio.to_thread(ray.util.placement_group_table, place)
        return bool(table["state"] != "CREATED")

    async with asyncio.timeout(60):
        while not await is_lost():  # noqa: ASYNC110 (the cluster tells nobody)
            await asyncio.sleep(0.2)
    with pytest.raises(
        PlacementError, match=r"1 processes found no room within 0\.5 s .+ too few nodes have the labels pool=spot"
    ):
        await until_placed(place, [{"pool": "spot"}], 0.5)
    with extra_node(ray_cluster, labels={"pool": "spot"}):
        await until_placed(place, [{"pool": "spot"}], 60)
        ray.util.remove_placement_group(place)


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


async def test_a_node_that_drains_is_known_and_takes_nothing_new(ray_cluster: Cluster) -> None:
    """A process holds the node, which would leave at once otherwise."""
    with extra_node(ray_cluster) as node:
        worker, _ = await started_on(node.node_id)
        async with asyncio.timeout(60):
            await until(lambda: room_for(*processes(1, cpus=1)) == 3)
        assert leaving_nodes() == {}
        await drain(ray_cluster, node, 90)
        async with asyncio.timeout(60):
            await until(lambda: node.node_id in leaving_nodes())
        [left_s] = leaving_nodes().values()
        assert 0 < left_s <= 90
        assert room_for(*processes(1, cpus=1)) == 2
        worker.kill()


async def test_a_worker_is_known_to_be_gone_with_its_node(ray_cluster: Cluster) -> None:
    node = ray_cluster.add_node(num_cpus=1, object_store_memory=10**8)
    worker, _ = await started_on(node.node_id)
    assert not await worker.is_gone_with_its_node()
    ray_cluster.remove_node(node)
    async with asyncio.timeout(60):
        while not await worker.is_gone_with_its_node():  # noqa: ASYNC110 (the cluster tells nobody)
            await asyncio.sleep(0.2)
