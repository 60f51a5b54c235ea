"""Reserves places for processes in the cluster, as Ray placement groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.ray.nodes import free_resources
from actors.ray.on_node import gpu_ids
from actors.ray.waits import cancel_all, within
from maspo_dist.errors import PlacementError
from maspo_dist.planning.placement import Bundle

#: Poll quickly at first, then slowly, to keep load off a busy cluster.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.6


def _resources_of(bundle: Bundle) -> dict[str, float]:
    """Resources of one process of `bundle`, in Ray's names."""
    return {"CPU": bundle.cpus, **({"GPU": float(bundle.gpus)} if bundle.gpus else {})}


async def reserve(
    bundles: Sequence[Bundle], timeout_s: float, waiting_for: Callable[[str], None] | None
) -> PlacementGroup:
    """A placement group with a place for each process of `bundles`, in their order.

    Reports to `waiting_for` when this takes seconds. Raises PlacementError after `timeout_s` seconds.
    """
    resources = [_resources_of(bundle) for bundle in bundles for _ in range(bundle.count)]
    labels = [dict(bundle.labels) for bundle in bundles for _ in range(bundle.count)]
    group = placement_group(resources, strategy="PACK", bundle_label_selector=labels if any(labels) else None)
    try:
        await until_placed(group, labels, timeout_s, waiting_for)
    except BaseException:
        remove_placement_group(group)
        raise
    return group


async def until_placed(
    group: PlacementGroup,
    labels: Sequence[Mapping[str, str]],
    timeout_s: float,
    waiting_for: Callable[[str], None] | None = None,
) -> None:
    """Waits until `group` has all its places: at first, and again after a node of it was lost.

    `labels` are those of its bundles. Raises PlacementError after `timeout_s` seconds.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    # group.wait() would hold a thread, and group.ready() would run a task in the group.
    while (await asyncio.to_thread(placement_group_table, group)).get("state") != "CREATED":
        if waiting_for is not None and pause_s == _LONGEST_PAUSE_S:
            waiting_for(f"a place for {group.bundle_count} processes; {await asyncio.to_thread(_free)}")
        if time.monotonic() > deadline_s:
            raise PlacementError(
                f"{group.bundle_count} processes found no room within {timeout_s:g} s "
                f"({await asyncio.to_thread(_free)}): {_reason(labels)}"
            )
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def gpus_of_places(group: PlacementGroup, places: Bundle, timeout_s: float) -> list[list[str]]:
    """The ids of the GPUs of each of `places`, the first bundles of `group`, as its node numbers them.

    A task takes all GPUs of a place and returns the ids that Ray gives to it.
    """
    tasks = [
        ray.remote(gpu_ids).options(
            num_cpus=0,
            num_gpus=places.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        )
        for index in range(places.count)
    ]
    answers = asyncio.gather(*(task.remote() for task in tasks))
    found: list[list[str]] = await within(timeout_s, "GPUs of the learners", answers)
    return found


async def reserve_on_new_nodes(
    groups: Sequence[Sequence[Bundle]], lack: str, timeout_s: float, waiting_for: Callable[[str], None]
) -> list[PlacementGroup]:
    """A placement group for each of `groups`, where the nodes still `lack` something that an autoscaler may add.

    All wait at once, so that it adds their nodes together. Raises PlacementError after `timeout_s` seconds.
    """
    waiting_for(f"nodes that the cluster may add within {timeout_s:g} s (cluster.node_timeout_s): {lack}")
    tasks = [asyncio.ensure_future(reserve(bundles, timeout_s, None)) for bundles in groups]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException as error:
        await cancel_all(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is None:
                remove_placement_group(task.result())
        if isinstance(error, PlacementError):
            raise PlacementError(
                f"the cluster added no such nodes within {timeout_s:g} s (cluster.node_timeout_s): {lack}"
            ) from error
        raise


def bundles_by_node(nodes: Mapping[int, str], count: int) -> list[int]:
    """The first `count` bundles of a placement group, those of a node one after another, the node of bundle 0 first.

    `nodes` are the nodes of all bundles. PACK does not promise that neighbouring bundles share a node.
    """
    order = list(dict.fromkeys(nodes[index] for index in range(count)))
    return sorted(range(count), key=lambda index: order.index(nodes[index]))


def room_for(bundle: Bundle) -> int:
    """How many more processes of `bundle` fit into the free resources. Counted per node: no process spans two."""
    needs = _resources_of(bundle).items()
    nodes = free_resources(bundle.labels)
    return sum(int(min(free.get(name, 0.0) // need for name, need in needs)) for free in nodes)


def _reason(labels: Sequence[Mapping[str, str]]) -> str:
    reason = "the cluster is busy with other jobs, or a node is gone"
    if wanted := sorted({f"{key}={value}" for of_one in labels for key, value in of_one.items()}):
        return f"{reason}, or too few nodes have the labels {', '.join(wanted)} of cluster.labels"
    return reason


def _free() -> str:
    free = ray.available_resources()
    return f"free now: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU"
