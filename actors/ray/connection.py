"""Joining a Ray cluster, or starting one on this machine; finding a live run on it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.ray.control import NAMESPACE, RunControl, control_name
from actors.ray.reachable import no_ray_at
from maspo_dist.errors import PlacementError
from maspo_dist.planning.placement import Device


def connect(wanted: Device | Literal["auto"]) -> Device:
    """Joins the cluster at RAY_ADDRESS, or starts one on this machine; returns what its processes compute on.

    `auto` takes GPUs where the cluster has any. What Ray prints goes to its own log files. Raises PlacementError
    where nothing answers at RAY_ADDRESS.
    """
    address = os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
    if address:
        if cause := no_ray_at(address):
            raise PlacementError(
                f"RAY_ADDRESS is {address}, but no Ray cluster answers there ({cause}): "
                "start one with `ray start --head`, or unset RAY_ADDRESS"
            )
        with _ray_starts(f"RAY_ADDRESS is {address}, but the Ray cluster there cannot be joined"):
            ray.init(address=address, **common)
    else:
        with _ray_starts("Ray does not start on this machine"):
            # By name: with no address Ray joins any cluster that was started on this machine.
            ray.init(address="local", include_dashboard=False, object_store_memory=_object_store_bytes(), **common)
    if wanted != "auto":
        return wanted
    return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"


@contextlib.contextmanager
def _ray_starts(otherwise: str) -> Iterator[None]:
    """Raises PlacementError, `otherwise` with the cause, where Ray does not."""
    try:
        yield
    except Exception as error:  # Ray raises that very class where a node does not come up in time.
        cause = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PlacementError(f"{otherwise}: {cause.strip()}") from error


def connect_to_run(address: str | None) -> None:
    """Joins the cluster at `address`, or where Ray finds one. Raises PlacementError where there is none."""
    if address and (cause := no_ray_at(address)):
        raise PlacementError(f"no Ray cluster answers at {address} ({cause}): is the run still live?")
    with _ray_starts(
        f"no Ray cluster answers at {address or 'here (set RAY_ADDRESS where the run is on another cluster)'}"
    ):
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR, namespace=NAMESPACE)


def cluster_address() -> str:
    """Where another process of this user joins the cluster."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def open_control(run_name: str) -> ActorHandle[Any]:
    """The named actor by which other shells reach this run. Raises PlacementError when the name is taken."""
    # On the node of this process: it is to be lost with the run, not with a node of the workers.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    try:
        control: ActorHandle[Any] = (
            ray.remote(RunControl).options(name=control_name(run_name), num_cpus=0, scheduling_strategy=here).remote()
        )
    except ValueError:
        raise PlacementError(f"a run called {run_name} is on this cluster already: choose another run.name") from None
    return control


def find_control(run_name: str) -> ActorHandle[Any]:
    """The control of a live run on the cluster that was joined. Raises PlacementError where there is none."""
    try:
        return ray.get_actor(control_name(run_name), namespace=NAMESPACE)
    except ValueError:
        prefix = control_name("")
        names = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["name"].startswith(prefix)]
        live = ", ".join(sorted(name.removeprefix(prefix) for name in names)) or "none"
        raise PlacementError(f"no live run is called {run_name} on this cluster; live runs: {live}") from None


def disconnect() -> None:
    """Leaves the cluster; one that `connect` started ends with all its processes."""
    ray.shutdown()


def _object_store_bytes() -> int:
    """A tenth of memory, between 100 MB and 8 GB: weights and the groups of a few steps."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(8 * 10**9, max(10**8, memory // 10))
