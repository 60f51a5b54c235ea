"""Sees to it, before the actors of a run start, that every node has the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.ray.errors import reason_of
from actors.ray.waits import within
from maspo_dist.config import EvaluationConfig, TrainConfig
from maspo_dist.errors import DeadlineError, ModelError
from maspo_dist.models.path import is_hub_name, require_model
from maspo_dist.planning.placement import Device

Configuration = TypeVar("Configuration", TrainConfig, EvaluationConfig)
#: Says on a node why a model is not there; None once it is.
Missing = Callable[[str], str | None]

#: Files of a hub model that neither learners nor engines read.
_UNREAD = ["*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "original/*"]


def path_for_actors(path: str) -> str:
    """`model.path` as processes on every node find it: a folder by its absolute path, a hub name as it is.

    In a job with a working directory, which Ray copies to each node, a relative path stays relative to the copy.
    """
    if is_hub_name(path) or ray.get_runtime_context().runtime_env.get("working_dir"):
        return path
    return str(Path(path).resolve())


def for_actors(config: Configuration) -> Configuration:
    """`config` as processes on every node get it: with `path_for_actors`."""
    model = config.model.model_copy(update={"path": path_for_actors(config.model.path)})
    return config.model_copy(update={"model": model})


def missing_model(path: str) -> str | None:
    """Implements `Missing` for a folder, and for a model of the hub, which it downloads into the node's cache."""
    try:
        if is_hub_name(path):
            from huggingface_hub import snapshot_download  # takes a second

            try:
                snapshot_download(path, ignore_patterns=_UNREAD)
            except Exception as error:  # The hub's client raises errors of its HTTP library, which have no common base.
                return f"it cannot be downloaded ({reason_of(error)})"
        else:
            require_model(path)
    except (ModelError, OSError) as error:
        return str(error)
    return None


async def require_model_on_nodes(
    path: str, device: Device, environment: Mapping[str, str], timeout_s: float, missing: Missing = missing_model
) -> None:
    """Calls `missing` on all nodes that can hold learners or engines, on each of them in one process.

    A folder on this node is known to be right. Raises ModelError naming a node without the model, and DeadlineError
    past `timeout_s` seconds.
    """
    resource = "GPU" if device == "cuda" else "CPU"
    here = None if is_hub_name(path) else ray.get_runtime_context().get_node_id()
    nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"] and node["Resources"].get(resource)]
    calls = [_require(node, path, environment, timeout_s, missing) for node in nodes if node["NodeID"] != here]
    await asyncio.gather(*calls)


async def _require(
    node: Mapping[str, Any], path: str, environment: Mapping[str, str], timeout_s: float, missing: Missing
) -> None:
    options = {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        "runtime_env": {"env_vars": dict(environment)},
    }
    address = node["NodeManagerAddress"]
    call = ray.remote(missing).options(**options).remote(path)
    try:
        reason: str | None = await within(timeout_s, f"node {address}: model {path}", call)
    except DeadlineError as error:
        if not is_hub_name(path):
            raise
        raise DeadlineError(
            f"{error} (cluster.start_timeout_s): raise it, or start again, which goes on with what is downloaded"
        ) from error
    if reason is not None:
        raise ModelError(f"node {address} lacks the model: {reason}; every node needs it at this path")
