"""Ray: joining or starting it, reserving places, making actors. The only ray.remote(...) calls.

connect ──► RunCluster.start: learners, verifier and rollout workers, side by side
            RunCluster.stop ends every one of them
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.actor_classes import ActorClasses
from actors.boundaries import ActorProcess, Body
from actors.control import NAMESPACE, RunControl, control_name
from actors.deadline import all_ready, within
from actors.engines.settings import EngineSettings, engine_environment
from actors.evaluation_actor import EvaluationActor
from actors.health import CONCURRENCY_GROUPS
from actors.learner_group import RayLearnerGroup, by_rank
from actors.on_node import ask_for_stacks, free_address, remove_segments
from actors.places import reserve, room_for
from actors.ray_worker import RayRolloutWorker
from actors.reachable import no_ray_at
from actors.rollout_members import RolloutWorkerHandle
from actors.rollout_pool import ElasticRolloutPool
from actors.verifier_pool import VerifierActor
from actors.verifier_watch import watch_verifier
from maspo_dist.config import EvalConfig, TrainConfig
from maspo_dist.errors import PlacementError
from maspo_dist.placement import Device, ModelSize, Role, plan_bundles, require_fit
from maspo_dist.run_folder import Event
from maspo_dist.types import RolloutGroup

logger = logging.getLogger(__name__)

REAL_CLASSES = ActorClasses()

#: Groups that one worker or the verifier may have in flight; admission bounds what really is.
_CONCURRENT_CALLS = 10_000
_SIGNAL_S = 10.0
#: The log of the process that drives the run.
_OWN_LOG = "controller.log"


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


def actor_class(plain: type) -> Any:
    """As an actor whose health calls have a concurrency group of their own; see `actors.health`."""
    return ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(plain)


class RunCluster:
    """The processes of one run: a placement group for learners and verifier, one more for each rollout worker."""

    def __init__(
        self,
        config: TrainConfig,
        size: ModelSize,
        device: Device,
        logs_path: Path,
        *,
        waiting_for: Callable[[str], None],
        on_event: Callable[[Event], None],
        classes: ActorClasses = REAL_CLASSES,
    ) -> None:
        self._config = config
        self._classes = classes
        self._device: Device = device
        self._bundles = plan_bundles(config, size, device)
        self._logs = logs_path.resolve()
        self._waiting_for = waiting_for
        self._is_started = False
        self._base: PlacementGroup | None = None
        self._verifier: ActorHandle[Any] | None = None
        self._on_event = on_event
        self._processes: dict[str, ActorProcess] = {}
        self._cleanings: list[Awaitable[object]] = []
        self.learners = RayLearnerGroup(self._make_learners, config.cluster)
        self.rollout = ElasticRolloutPool(config, self, on_event)

    async def start(self) -> None:
        """Reserves places and starts every process side by side, saying what it waits for.

        Raises PlacementError when the cluster is too small, DeadlineError past `cluster.start_timeout_s`, and
        whatever a process dies of. Call `stop` whatever happens.
        """
        require_fit(self._bundles, ray.cluster_resources())
        base = [bundle for bundle in self._bundles if bundle.role != "rollout"]
        self._base = await reserve(base, self._config.cluster.start_timeout_s, self._waiting_for)
        # A verifier that dies is made again and the calls it held are repeated: scoring has no state.
        self._verifier = (
            actor_class(self._classes.verifier)
            .options(
                **self._place(self._base, self._config.learner.ranks, "verifier"),
                max_restarts=-1,
                max_task_retries=3,
                max_concurrency=_CONCURRENT_CALLS,
            )
            .remote(self._config.reward, self._logs)
        )
        starts = {"learners": self.learners.start(), "rollout workers": self.rollout.start()}
        await all_ready(starts, self._waiting_for)
        self._is_started = True

    async def watch_verifier(self) -> None:
        """Runs until cancelled, once the cluster is started; see `verifier_watch`."""
        assert self._verifier is not None
        await watch_verifier(self._verifier, self._config.cluster, self._on_event)

    async def stop(self) -> None:
        """Ends every process, gently first, so that engines end their own children."""
        await asyncio.gather(self.rollout.stop(), self.learners.stop(), self._stop_verifier(), return_exceptions=True)
        if self._cleanings:
            await asyncio.wait([asyncio.ensure_future(_settled(clean)) for clean in self._cleanings], timeout=_SIGNAL_S)
        if self._base is not None:
            remove_placement_group(self._base)

    async def dump_stacks(self) -> None:
        """Has every process, this one too, write the stacks of its threads to its log file."""
        with contextlib.suppress(OSError), (self._logs / _OWN_LOG).open("a") as log:
            faulthandler.dump_traceback(log, all_threads=True)
        asked = [_ask_for_stacks(process) for process in self._processes.values()]
        if self._verifier is not None:
            asked.append(_ask_verifier_for_stacks(self._verifier))
        await asyncio.wait([asyncio.ensure_future(_settled(one)) for one in asked], timeout=_SIGNAL_S)

    # What the rollout pool asks for: `rollout_members.WorkerFactory`.

    async def start_worker(self, index: int) -> RolloutWorkerHandle:
        """Places and starts rollout worker `index`, its engine included."""
        config = self._config
        [bundle] = [bundle for bundle in self._bundles if bundle.role == "rollout"]
        # Later it is the pool that tells of a worker that waits.
        tell = None if self._is_started else self._waiting_for
        group = await reserve([replace(bundle, count=1)], config.cluster.place_timeout_s, tell)
        processes = config.rollout.first_workers * config.rollout.tensor_parallel
        threads = config.rollout.threads or _share_of_cores(processes)
        handle = (
            actor_class(self._classes.rollout)
            .options(
                **self._place(group, 0, "rollout"),
                max_concurrency=_CONCURRENT_CALLS,
                runtime_env={"env_vars": engine_environment(self._device, threads)},
            )
            .remote(config, index, self._device, self._verifier, self._logs)
        )
        name = f"rollout worker {index}"
        worker = RayRolloutWorker(name, handle, release=lambda: self._released(name, group))
        try:
            self._processes[name] = await worker.start()
        except BaseException:
            worker.kill()
            raise
        return worker

    def _released(self, name: str, group: PlacementGroup) -> None:
        """Gives a worker's place back; what its engine left in shared memory, if it was killed, goes too."""
        remove_placement_group(group)
        process = self._processes.pop(name, None)
        if process is not None and process.segments:
            clean = ray.remote(remove_segments).options(**_on_node(process)).remote(process.segments)
            self._cleanings.append(clean)

    async def room(self) -> int:
        """How many more rollout workers fit into what is free now."""
        [bundle] = [bundle for bundle in self._bundles if bundle.role == "rollout"]
        return await asyncio.to_thread(room_for, bundle)

    async def fetch(self, body: Body) -> RolloutGroup:
        group: RolloutGroup = await body
        return group

    def store(self, group: RolloutGroup) -> Body:
        return ray.put(group)

    # Parts.

    async def _make_learners(self) -> list[ActorHandle[Any]]:
        config, base = self._config, self._base
        assert base is not None
        address = await within(
            config.cluster.start_timeout_s,
            "learner rank 0: its port",
            _meeting_point(base, config.cluster.learner_port),
        )
        threads = config.learner.threads or _share_of_cores(config.learner.ranks)
        learners = [
            ray.remote(self._classes.learner)
            .options(**self._place(base, rank, "learner"), runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}})
            .remote(config, rank, config.learner.ranks, self._logs)
            for rank in range(config.learner.ranks)
        ]
        try:
            starts = [learner.start.remote(address) for learner in learners]
            processes = await by_rank(starts, "start", config.cluster.start_timeout_s)
        except BaseException:
            for learner in learners:
                ray.kill(learner)
            raise
        self._processes |= {f"learner rank {rank}": process for rank, process in enumerate(processes)}
        return learners

    async def _stop_verifier(self) -> None:
        verifier, self._verifier = self._verifier, None
        if verifier is None:
            return
        try:
            await within(30.0, "verifier: stop", verifier.stop.remote())
        finally:
            ray.kill(verifier)

    def _place(self, group: PlacementGroup, index: int, role: Role) -> dict[str, Any]:
        """Options of an actor of `role` in bundle `index` of `group`."""
        [bundle] = [bundle for bundle in self._bundles if bundle.role == role]
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        return {"num_cpus": bundle.cpus, "num_gpus": bundle.gpus, "scheduling_strategy": strategy}


def make_evaluation_actors(
    config: EvalConfig,
    settings: EngineSettings,
    device: Device,
    places: Mapping[Role, Sequence[Mapping[str, Any]]],
    logs_path: Path,
) -> tuple[ActorHandle[Any], list[ActorHandle[Any]]]:
    """The verifier and the evaluation workers, not started yet; `places` are each role's actor options."""
    verifier = (
        actor_class(VerifierActor)
        .options(**places["verifier"][0], max_restarts=-1, max_task_retries=3, max_concurrency=_CONCURRENT_CALLS)
        .remote(config.reward, logs_path.resolve())
    )
    environment = engine_environment(device, _share_of_cores(len(places["rollout"])))
    workers = [
        ray.remote(EvaluationActor)
        .options(**place, max_concurrency=_CONCURRENT_CALLS, runtime_env={"env_vars": environment})
        .remote(settings, index, device, verifier, config.cluster.verify_timeout_s, logs_path.resolve())
        for index, place in enumerate(places["rollout"])
    ]
    return verifier, workers


def _on_node(process: ActorProcess) -> dict[str, Any]:
    """Options of a task that runs beside `process`, if its node is still there."""
    return {
        "num_cpus": 0,
        "max_retries": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(process.node_id, soft=False),
    }


async def _ask_for_stacks(process: ActorProcess) -> None:
    await ray.remote(ask_for_stacks).options(**_on_node(process)).remote(process.pid)


async def _ask_verifier_for_stacks(verifier: ActorHandle[Any]) -> None:
    """Asks who it is first: Ray may have made it anew."""
    await _ask_for_stacks(await verifier.process.remote())


async def _settled(reference: Awaitable[object]) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        await reference


def _share_of_cores(processes: int) -> int:
    """CPU threads of one of `processes`: learners and engines take turns, so each side may have all cores."""
    return max(1, (os.cpu_count() or 1) // processes)


def _meeting_point(group: PlacementGroup, port: int | None) -> Awaitable[str]:
    """Where learner ranks meet: the node of rank 0, at `port` or one that is free there now."""
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    address: Awaitable[str] = ray.remote(free_address).options(num_cpus=0, scheduling_strategy=place).remote(port)
    return address


def _object_store_bytes() -> int:
    """A tenth of memory, between 100 MB and 8 GB: weights and the groups of a few steps."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(8 * 10**9, max(10**8, memory // 10))
