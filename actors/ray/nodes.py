"""What Ray tells about nodes by private calls only: vLLM and Ray's own libraries make the same calls."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import ray

from maspo_dist.planning.placement import NodeRoom


def leaving_nodes() -> dict[str, float]:
    """The nodes that are draining, because they are pre-empted or scaled away: seconds left, by node id."""
    deadlines: Mapping[str, int] = ray._private.state.state.get_draining_nodes()
    now_s = time.time()
    # 0 stands for no deadline.
    return {node: max(0.0, ms / 1000 - now_s) if ms else math.inf for node, ms in deadlines.items()}


def node_rooms() -> list[NodeRoom]:
    """What each node has, taken or not."""
    return [NodeRoom(resources=node["Resources"], labels=node["Labels"]) for node in ray.nodes() if node["Alive"]]


def free_resources(labels: Mapping[str, str]) -> list[Mapping[str, float]]:
    """Free resources of each node that has `labels` and takes new processes: a draining node takes none."""
    leaving = leaving_nodes()
    fitting = {node["NodeID"] for node in ray.nodes() if labels.items() <= node["Labels"].items()} - leaving.keys()
    free: Mapping[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()
    return [resources for node, resources in free.items() if node in fitting]
