"""Ray: joining or starting it, reserving places, making actors. The only ray.remote(...) calls.

connect ──► RunCluster.start: learners, verifier and rollout workers, side by side
            RunCluster.stop ends every one of them
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.engines.vllm.settings import engine_environment
from actors.interfaces import ActorProcess, Body, RolloutWorkerHandle
from actors.learner.actor import Learner
from actors.learner.group import RayLearnerGroup, by_rank
from actors.ray.actor_options import CONCURRENT_CALLS, actor_class, share_of_cores
from actors.ray.on_node import ask_for_stacks, free_address, remove_segments
from actors.ray.placement_groups import reserve, room_for
from actors.ray.waits import all_ready, within
from actors.rollout.actor import RolloutActor
from actors.rollout.handle import RayRolloutWorker
from actors.rollout.pool import ElasticRolloutPool
from actors.verifier.actor import VerifierActor
from actors.verifier.watch import watch_verifier
from maspo_dist.config import TrainConfig
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.placement import Device, Role, plan_bundles, require_fit
from maspo_dist.types import Event, RolloutGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorClasses:
    """Each class must be importable on every node."""

    rollout: type[RolloutActor] = RolloutActor
    learner: type[Learner] = Learner
    verifier: type[VerifierActor] = VerifierActor


REAL_CLASSES = ActorClasses()

_SIGNAL_S = 10.0
#: The log of the process that drives the run.
_OWN_LOG = "controller.log"


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
                max_concurrency=CONCURRENT_CALLS,
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

    # What the rollout pool asks for: `interfaces.WorkerFactory`.

    async def start_worker(self, index: int) -> RolloutWorkerHandle:
        """Places and starts rollout worker `index`, its engine included."""
        config = self._config
        [bundle] = [bundle for bundle in self._bundles if bundle.role == "rollout"]
        # Later it is the pool that tells of a worker that waits.
        tell = None if self._is_started else self._waiting_for
        group = await reserve([replace(bundle, count=1)], config.cluster.place_timeout_s, tell)
        processes = config.rollout.first_workers * config.rollout.tensor_parallel
        threads = config.rollout.threads or share_of_cores(processes)
        handle = (
            actor_class(self._classes.rollout)
            .options(
                **self._place(group, 0, "rollout"),
                max_concurrency=CONCURRENT_CALLS,
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
        threads = config.learner.threads or share_of_cores(config.learner.ranks)
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


def _meeting_point(group: PlacementGroup, port: int | None) -> Awaitable[str]:
    """Where learner ranks meet: the node of rank 0, at `port` or one that is free there now."""
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    address: Awaitable[str] = ray.remote(free_address).options(num_cpus=0, scheduling_strategy=place).remote(port)
    return address
