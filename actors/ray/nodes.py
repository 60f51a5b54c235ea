"""What Ray tells about nodes by private calls only: vLLM and Ray's own libraries make the same calls."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from maspo_dist.errors import PlacementError
from maspo_dist.planning.placement import Bundle, NodeRoom, require_fit

#: How KubeRay started Ray in this pod.
_KUBERAY_START = "KUBERAY_GEN_RAY_START_CMD"


def leaving_nodes() -> dict[str, float]:
    """The nodes that are draining, because they are pre-empted or scaled away: seconds left, by node id."""
    deadlines: Mapping[str, int] = ray._private.state.state.get_draining_nodes()
    now_s = time.time()
    # 0 stands for no deadline.
    return {node: max(0.0, ms / 1000 - now_s) if ms else math.inf for node, ms in deadlines.items()}


def node_rooms() -> list[NodeRoom]:
    """What each node has, taken or not."""
    return [NodeRoom(resources=node["Resources"], labels=node["Labels"]) for node in ray.nodes() if node["Alive"]]


def has_autoscaler() -> bool:
    """Whether the cluster adds nodes when processes wait for a place, as those of `ray up` and KubeRay may."""
    start = os.environ.get(_KUBERAY_START, "")
    if "--head" in start:
        # KubeRay's autoscaler is a container beside the head, which then starts without a monitor of its own.
        return "--no-monitor" in start
    if is_autoscaler_v2(fetch_from_server=True):
        return True
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    if "autoscaler_report" not in status:
        return False
    # The monitor of a cluster without an autoscaler reports too: a type for each node, made of its id.
    types = status["autoscaler_report"]["active_nodes"]
    return not any(node_type.startswith("node_") for node_type in types)


def shortage(bundles: Sequence[Bundle]) -> str | None:
    """What the nodes lack for `bundles`, where an autoscaler may add it; None if they lack nothing.

    Raises PlacementError if they lack something and the cluster keeps its size.
    """
    try:
        require_fit(tuple(bundles), node_rooms())
    except PlacementError as error:
        if not has_autoscaler():
            raise
        return str(error)
    return None


def free_resources(labels: Mapping[str, str]) -> list[Mapping[str, float]]:
    """Free resources of each node that has `labels` and takes new processes: a draining node takes none."""
    leaving = leaving_nodes()
    fitting = {node["NodeID"] for node in ray.nodes() if labels.items() <= node["Labels"].items()} - leaving.keys()
    free: Mapping[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()
    return [resources for node, resources in free.items() if node in fitting]
