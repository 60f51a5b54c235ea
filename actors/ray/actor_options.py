"""How plain classes become Ray actors, and where those run."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.ray.health import CONCURRENCY_GROUPS
from maspo_dist.planning.placement import Bundle

#: Calls that a rollout worker or the verifier may have in flight; admission sets the real limit.
CONCURRENT_CALLS = 10_000


def actor_class(plain: type) -> Any:
    """`plain` as an actor class whose health calls have their own concurrency group; see `actors.ray.health`."""
    return ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(plain)


def bundle_options(group: PlacementGroup, index: int, bundle: Bundle) -> dict[str, Any]:
    """Options of the actor that runs at place `index` of `group`, with the resources of `bundle`."""
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
    return {"num_cpus": bundle.cpus, "num_gpus": bundle.gpus, "scheduling_strategy": strategy}


def share_of_cores(processes: int) -> int:
    """CPU threads per process. Learners and engines take turns, so each kind shares all cores among `processes`."""
    return max(1, (os.cpu_count() or 1) // processes)
