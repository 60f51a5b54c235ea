"""How another shell reaches a live run: a named actor that holds the last request until the run takes it."""

from __future__ import annotations

from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from maspo_dist.errors import PlacementError

#: Ray namespace of all runs.
NAMESPACE = "maspo-dist"
_PREFIX = "maspo-run:"


class RunControl:
    """Holds one run's requests from outside, and ends with the run."""

    def __init__(self) -> None:
        self._workers: int | None = None
        self._serving = 0

    def request_workers(self, workers: int) -> None:
        """Asks the run for `workers` rollout workers; replaces a request that the run has not taken yet."""
        self._workers = workers

    def exchange(self, serving: int) -> int | None:
        """Called by the run: reports how many workers serve, and takes the request if there is one."""
        self._serving = serving
        workers, self._workers = self._workers, None
        return workers

    def serving(self) -> int:
        """How many workers serve, by the run's last report."""
        return self._serving


def open_control(run_name: str) -> ActorHandle[Any]:
    """Starts the control of this run. Raises PlacementError when a live run has the same name."""
    # On the driver's node, so that losing a worker node does not lose it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": f"{_PREFIX}{run_name}", "num_cpus": 0, "scheduling_strategy": here}
    try:
        control: ActorHandle[Any] = ray.remote(enable_task_events=False)(RunControl).options(**options).remote()
    except ValueError:
        raise PlacementError(f"a run called {run_name} is on this cluster already: choose another run.name") from None
    return control


def find_control(run_name: str) -> ActorHandle[Any]:
    """The control of a live run on the joined cluster. Raises PlacementError when there is no such run."""
    try:
        return ray.get_actor(f"{_PREFIX}{run_name}", namespace=NAMESPACE)
    except ValueError:
        actors = (actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))
        live = ", ".join(sorted(name.removeprefix(_PREFIX) for name in actors if name.startswith(_PREFIX))) or "none"
        raise PlacementError(f"no live run is called {run_name} on this cluster; live runs: {live}") from None
