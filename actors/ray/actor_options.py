"""How plain classes become Ray actors, and where those run.

A health call is answered however many other calls the actor holds. Health calls have a concurrency group of their own,
which Ray gives threads of its own, and an event loop if the actor is async. To check more than liveness, `answered_by`
forwards the call to the event loop that serves requests. Calls that copy a learner's weights have another group: they
wait for no update, and no health call waits for them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from maspo_dist.planning.placement import Bundle, Device

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])

#: Calls that a rollout worker or the verifier may have in flight; admission sets the real limit.
CONCURRENT_CALLS = 10_000
#: How the variables begin that every actor gets from the driver: a node's Ray started with an environment of its own.
_HANDED_ON = ("NCCL_", "HF_")
#: Health calls that run at once.
_HEALTH_CALLS = 8


def actor_class(plain: type) -> Any:
    """`plain` as an actor class that may have health calls and copy calls.

    Its calls are no task events of Ray, of which the GCS would keep 100,000 in memory.
    """
    groups = {"health": _HEALTH_CALLS, "copies": 1}
    return ray.remote(concurrency_groups=groups, enable_task_events=False)(plain)


def health_call(method: Method) -> Method:
    """Marks a method as a health call; make the actor with `actor_class`."""
    marked: Method = ray.method(concurrency_group="health")(method)
    return marked


def copy_call(method: Method) -> Method:
    """Marks a method that copies weights while other calls run; such calls run one at a time."""
    marked: Method = ray.method(concurrency_group="copies")(method)
    return marked


async def answered_by(serving: asyncio.AbstractEventLoop, question: Coroutine[Any, Any, T]) -> T:
    """The result of `question`, which runs in the event loop `serving`; no result comes while that loop hangs."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question, serving))


def bundle_options(
    group: PlacementGroup,
    index: int,
    bundle: Bundle,
    configured: Mapping[str, str],
    own: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Options of the actor that runs at place `index` of `group`, with the resources of `bundle`.

    Its environment is that of its node, and over it the driver's NCCL_* and HF_*, the actor's `own` variables, and
    those `configured` as `cluster.environment`.
    """
    return {
        "num_cpus": bundle.cpus,
        "num_gpus": bundle.gpus,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        "runtime_env": {"env_vars": actor_environment(configured, own)},
    }


def actor_environment(configured: Mapping[str, str], own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of an actor beside those of its node, see `bundle_options`."""
    handed_on = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
    return {**handed_on, **(own or {}), **configured}


def share_of_cores(device: Device, processes: int) -> int:
    """CPU threads per process. On GPUs a process has one GPU, and each GPU an equal share of its nodes' cores.

    On CPUs learners and engines take turns, so each kind shares all cores of this node among `processes`.
    """
    if device == "cpu":
        return max(1, (os.cpu_count() or 1) // processes)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    cores, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    return max(1, int(cores // gpus)) if gpus else 1
