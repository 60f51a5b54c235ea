"""The composition root of a run: places, starts and ends its processes.

RunCluster.start ──► learners, verifier and rollout workers, concurrently; the pool starts more workers later
RunCluster.leave ──► leaves learner processes and engines to the next run, where there is a shelf for them
RunCluster.stop  ──► ends every process
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from actors.controller.turns import DeviceTurns
from actors.engines.settings import engine_environment, learner_environment
from actors.interfaces import ActorProcess, Body, RolloutWorkerHandle
from actors.learner.actor import Learner
from actors.learner.group import RayLearnerGroup, by_rank
from actors.ray.actor_options import (
    CONCURRENT_CALLS,
    actor_class,
    actor_environment,
    bundle_options,
    share_of_cores,
)
from actors.ray.connection import small_stores
from actors.ray.model_on_nodes import require_model_on_nodes
from actors.ray.nodes import shortage
from actors.ray.on_node import dump_stacks, free_address, remove_segments, run_beside, write_token
from actors.ray.placement_groups import (
    bundles_by_node,
    gpus_of_places,
    reserve,
    reserve_on_new_nodes,
    room_for,
    until_placed,
)
from actors.ray.waits import all_ready, within
from actors.rollout.actor import RolloutActor
from actors.rollout.broadcasts import Broadcasts
from actors.rollout.direct import DirectPublisher
from actors.rollout.ipc import IpcPublisher
from actors.rollout.pool import ElasticRolloutPool
from actors.verifier.actor import VerifierActor
from actors.verifier.client import VerifierClient
from actors.verifier.process import VerifierProcess
from actors.warm import KeepableWorker, Shelf, WarmProcesses, WarmWorker, processes_key
from maspo_dist.config import TrainConfig
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.object_store import publish_bytes
from maspo_dist.planning.placement import Bundle, Device, places, plan_bundles, shared_bundle
from maspo_dist.planning.transport import choose_transport
from maspo_dist.runs.rows import Event
from maspo_dist.types import RolloutGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorClasses:
    """The actor classes of a run; fault tests substitute their own. Every node must be able to import them."""

    rollout: type[RolloutActor] = RolloutActor
    learner: type[Learner] = Learner
    verifier: type[VerifierActor] = VerifierActor


REAL_CLASSES = ActorClasses()

#: Longest wait in seconds for processes to write their stacks, or for nodes to clean up.
_ANSWER_S = 10.0
#: How long the port of rank 0 may be held: by the system after its last use; in a restart, by a rank that was killed.
_RELEASE_S, _KILLED_RELEASE_S = 5.0, 60.0
#: Begins the names of the learners' processes.
_RANK = "learner rank "
#: Log of the process that drives the run.
_OWN_LOG = "controller.log"


@dataclass(eq=False)
class RunCluster:
    """The processes of one run: one placement group for learners and verifier, and one for each rollout worker."""

    config: TrainConfig
    size: InitVar[ModelSize]
    device: Device
    logs_path: Path
    waiting_for: Callable[[str], None] = field(kw_only=True)
    on_event: Callable[[Event], None] = field(kw_only=True)
    classes: ActorClasses = field(kw_only=True, default=REAL_CLASSES)
    #: Holds the processes that an earlier run left; None where every run starts its own.
    shelf: Shelf | None = field(kw_only=True, default=None)

    def __post_init__(self, size: ModelSize) -> None:
        self._bundles = {bundle.role: bundle for bundle in plan_bundles(self.config, size, self.device)}
        self._publish_bytes = publish_bytes(self.config, size)
        self._logs = self.logs_path.resolve()
        self._is_started = False
        self._base: PlacementGroup | None = None
        #: Places that were reserved for the first workers before they start.
        self._free_places: list[PlacementGroup] = []
        self._verifier: VerifierProcess | None = None
        self._processes: dict[str, ActorProcess] = {}
        self._cleanups: list[Awaitable[object]] = []
        self._is_leaving = False
        #: Kept processes that this run has not taken into use, or leaves behind.
        self._idle_verifier: ActorHandle[Any] | None = None
        self._idle_learners: list[ActorHandle[Any]] = []
        self._idle_workers: list[WarmWorker] = []
        self._transport = choose_transport(self.config, self.device)
        is_direct, parallel = self._transport.is_direct, self.config.learner.sequence_parallel
        self.learners = RayLearnerGroup(self._make_learners, self.config.cluster, parallel, announces=is_direct)
        self.rollout = ElasticRolloutPool(self.config, self, self.on_event, self._direct_publisher())
        #: None where engines and learners have devices of their own.
        self.turns: DeviceTurns | None = None
        if self.config.cluster.layout == "colocated":
            self.turns = DeviceTurns(self.rollout, self.learners)
        #: GPUs of each place that an engine shares with learner ranks.
        self._shared_gpus: list[list[str]] = []

    async def start(self) -> None:
        """Reserves places, starts all processes concurrently, and reports what it waits for.

        Raises PlacementError when the cluster is too small and adds no nodes in time, ModelError when a node lacks the
        model, DeadlineError past `cluster.start_timeout_s`, and the error of a process that fails to start. Always call
        `stop` afterwards.
        """
        lack = await asyncio.to_thread(shortage, places(self.config, tuple(self._bundles.values())))
        await self._take_from_shelf()
        if lack is not None and self._base is None:
            await self._reserve_on_new_nodes(lack)
        for sentence in small_stores(ray.nodes(), self._publish_bytes):
            self.on_event(Event(kind="object_store_small", message=sentence))
        config, verifier = self.config, self._bundles["verifier"]
        if config.sync.transport == "auto" and self._transport.is_direct:
            message = f"{self._transport.name}: {self._transport.reason}"
            self.on_event(Event(kind="transport_chosen", message=message))
        self.waiting_for("the model on every node")
        environment = actor_environment(config.cluster.environment)
        await require_model_on_nodes(config.model.path, self.device, environment, config.cluster.start_timeout_s)
        if self._base is None:
            base = [self._learner_places(), verifier]
            self._base = await reserve(base, config.cluster.start_timeout_s, self.waiting_for)
        options = bundle_options(self._base, self._learner_places().count, verifier, config.cluster.environment)
        kept, self._idle_verifier = self._idle_verifier, None
        self._verifier = VerifierProcess(
            config.reward, config.cluster, self._logs, options, self.classes.verifier, kept
        )
        starts: dict[str, Awaitable[object]] = {}
        if self.turns is None:
            starts |= {"learners": self.learners.start(), "rollout workers": self.rollout.start()}
        else:
            starts |= {"rollout workers, then learners": self._start_in_turn()}
        if kept is not None:
            starts["verifier"] = self._verifier.renew()
        await all_ready(starts, self.waiting_for)
        self._is_started = True

    def _direct_publisher(self) -> DirectPublisher | None:
        if self._transport.name == "collective":
            return Broadcasts(self.config, self.learners, self.on_event)
        if self._transport.name == "ipc":
            return IpcPublisher(self.config, self.learners, self.on_event)
        return None

    async def _start_in_turn(self) -> None:
        """An engine measures the free memory of its device when it starts, so it starts first."""
        if self.device == "cuda":
            self._shared_gpus = await gpus_of_places(
                self._base, self._learner_places(), self.config.cluster.start_timeout_s
            )
        await self.rollout.start()
        await self.rollout.sleep()
        await self.learners.start()

    async def _reserve_on_new_nodes(self, lack: str) -> None:
        """The first workers ask for their nodes together with the others."""
        workers = 0 if self.turns else self.config.rollout.first_workers
        groups = [
            [self._learner_places(), self._bundles["verifier"]],
            *([replace(self._bundles["rollout"], count=1)] for _ in range(workers)),
        ]
        timeout_s = self.config.cluster.node_timeout_s
        self._base, *self._free_places = await reserve_on_new_nodes(groups, lack, timeout_s, self.waiting_for)

    def _learner_places(self) -> Bundle:
        """The places of learners: one per rank, or one per engine with the ranks that share its devices."""
        learner = self._bundles["learner"]
        if self.turns is None:
            return learner
        return shared_bundle(learner, self._bundles["rollout"], self.config.rollout.tensor_parallel)

    def own_nodes(self) -> set[str]:
        """Ids of the nodes without which the run cannot go on: those of the learners and of this process."""
        assert self._base is not None
        places = placement_group_table(self._base)["bundles_to_node_id"]
        of_learners = {places[index] for index in range(self._learner_places().count)}
        return {ray.get_runtime_context().get_node_id(), *of_learners}

    async def watch_verifier(self) -> None:
        """Runs until cancelled, once the cluster is started; see `VerifierProcess.watch`."""
        assert self._verifier is not None
        await self._verifier.watch(self.on_event)

    async def leave(self) -> None:
        """Ends what belongs to this run alone, and puts the other processes on the shelf; call it after a good end.

        `stop` ends what is not put there: all processes where there is no shelf, or a process does not come to rest.
        """
        if self.shelf is None or self._base is None or self._verifier is None:
            return
        try:
            key = processes_key(self.config, self.device)
            if key is None:
                return
            self._is_leaving = True
            await self.rollout.stop()
            self._idle_learners = await self.learners.release()
        except Exception as error:
            # The run itself is good.
            logger.warning("no process is kept for the next run: %s", error)
            return
        base, self._base = self._base, None
        verifier, self._verifier = self._verifier.handle, None
        learners, self._idle_learners = self._idle_learners, []
        first = self.config.rollout.first_workers
        workers, self._idle_workers = self._idle_workers[:first], self._idle_workers[first:]
        self.shelf.kept = WarmProcesses(key=key, base=base, verifier=verifier, learners=learners, workers=workers)

    async def _take_from_shelf(self) -> None:
        if self.shelf is None:
            return
        kept = await self.shelf.take(processes_key(self.config, self.device))
        if kept is not None:
            self._base, self._idle_verifier = kept.base, kept.verifier
            self._idle_learners, self._idle_workers = list(kept.learners), list(kept.workers)

    async def stop(self) -> None:
        """Ends every process; engines end their own processes first."""
        self._is_leaving = False
        verifier, self._verifier = self._verifier, None
        stops = [self.rollout.stop(), self.learners.stop(), *([verifier.stop()] if verifier else [])]
        await asyncio.gather(*stops, return_exceptions=True)
        learners, self._idle_learners = self._idle_learners, []
        workers, self._idle_workers = self._idle_workers, []
        await asyncio.gather(*(worker.end() for worker in workers), return_exceptions=True)
        for process in (*learners, *([self._idle_verifier] if self._idle_verifier else [])):
            ray.kill(process, no_restart=True)
        await _settled(self._cleanups)
        for place in (*self._free_places, *([self._base] if self._base else [])):
            remove_placement_group(place)

    async def dump_stacks(self) -> None:
        """Makes every process, including this one, write the stacks of its threads to its log file."""
        with contextlib.suppress(OSError), (self._logs / _OWN_LOG).open("a") as log:
            faulthandler.dump_traceback(log, all_threads=True)
        dumps = [run_beside(process, dump_stacks, process.pid) for process in self._processes.values()]
        await _settled([*dumps, *([self._verifier.dump_stacks()] if self._verifier else [])])

    # Implements `interfaces.WorkerFactory` for the rollout pool.

    async def start_worker(self, index: int, place_timeout_s: float) -> RolloutWorkerHandle:
        """Places and starts rollout worker `index` and its engine, or takes a kept worker.

        Until a place is found, the wait shows an autoscaler the need.
        """
        assert self._verifier is not None
        name = f"rollout worker {index}"
        scorer = VerifierClient(self._verifier.handle, self.config.cluster.verify_timeout_s)
        kept = self._idle_workers.pop(0) if self._idle_workers else None
        place = kept.place if kept else await self._place_of_worker(place_timeout_s)
        handle = kept.handle if kept else self._make_worker(place, index, scorer)
        worker = KeepableWorker(
            name,
            handle,
            release=lambda: self._released(name, place),
            is_to_rest=lambda: self._is_leaving,
            keep=lambda: self._idle_workers.append(WarmWorker(handle=handle, place=place)),
        )
        try:
            self._processes[name] = await (
                worker.renew(self.config, index, scorer, self._logs) if kept else worker.start()
            )
        except BaseException:
            worker.kill()
            raise
        return worker

    async def _place_of_worker(self, timeout_s: float) -> PlacementGroup:
        if self.turns is not None:
            assert self._base is not None
            return self._base
        if self._free_places:
            return self._free_places.pop()
        # After the start, the pool reports that a worker waits.
        waiting_for = None if self._is_started else self.waiting_for
        bundle = replace(self._bundles["rollout"], count=1)
        return await reserve([bundle], timeout_s, waiting_for)

    def _make_worker(self, place: PlacementGroup, index: int, scorer: VerifierClient) -> ActorHandle[Any]:
        config, bundle = self.config, self._bundles["rollout"]
        processes = config.rollout.first_workers * config.rollout.tensor_parallel
        environment = engine_environment(self.device, config.rollout.threads or share_of_cores(self.device, processes))
        if self._shared_gpus:
            # Ray gives the GPUs of the place to the learner ranks, and leaves this variable to a process without GPUs.
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._shared_gpus[index])
        at = 0 if self.turns is None else index
        handle: ActorHandle[Any] = (
            actor_class(self.classes.rollout)
            .options(
                **bundle_options(place, at, bundle, config.cluster.environment, environment),
                max_concurrency=CONCURRENT_CALLS,
            )
            .remote(config, index, self.device, scorer, self._logs)
        )
        return handle

    def _released(self, name: str, group: PlacementGroup) -> None:
        """Frees a worker's place, and removes the shared memory that a killed engine left."""
        if group is not self._base:
            remove_placement_group(group)
        process = self._processes.pop(name, None)
        if process is not None and process.segments:
            self._cleanups.append(run_beside(process, remove_segments, process.segments))

    async def room(self) -> int:
        """How many more rollout workers fit into the free resources."""
        return await asyncio.to_thread(room_for, self._bundles["rollout"])

    async def fetch(self, body: Body) -> RolloutGroup:
        group: RolloutGroup = await body
        return group

    def store(self, group: RolloutGroup) -> Body:
        return ray.put(group)

    # The factory of the learner group.

    async def _make_learners(self) -> list[ActorHandle[Any]]:
        config, base, bundle = self.config, self._base, self._bundles["learner"]
        assert base is not None
        ranks, places, start_s = config.learner.ranks, self._learner_places(), config.cluster.start_timeout_s
        self._processes = {name: it for name, it in self._processes.items() if not name.startswith(_RANK)}
        await until_placed(base, [places.labels], start_s)
        if self._shared_gpus:
            # A place whose node was lost has the GPUs of another node now.
            self._shared_gpus = await gpus_of_places(base, places, start_s)
        threads = config.learner.threads or share_of_cores(self.device, ranks)
        environment = learner_environment(self.device, threads, shares_memory=self._transport.name == "ipc")
        nodes = (await asyncio.to_thread(placement_group_table, base))["bundles_to_node_id"]
        options = [
            bundle_options(base, index, bundle, config.cluster.environment, environment)
            for index in bundles_by_node(nodes, places.count)
            for _ in range(ranks // places.count)
        ]
        beside_rank_0 = {"num_cpus": 0, "scheduling_strategy": options[0]["scheduling_strategy"]}
        release_s = _KILLED_RELEASE_S if self._is_started else _RELEASE_S
        address: str = await within(
            start_s,
            f"{_RANK}0: its port",
            ray.remote(free_address).options(**beside_rank_0).remote(config.cluster.learner_port, release_s),
        )
        kept, self._idle_learners = self._idle_learners, []
        learners = kept or [
            actor_class(self.classes.learner).options(**of_rank).remote(config, rank, ranks, self.device, self._logs)
            for rank, of_rank in enumerate(options)
        ]
        token = await asyncio.to_thread(write_token, self._logs)
        try:
            if kept:
                renewals = [learner.renew.remote(config, self._logs) for learner in kept]
                await by_rank(renewals, "renewal", start_s)
            starts = [learner.start.remote(address, token) for learner in learners]
            processes = await by_rank(starts, "start", start_s)
        except BaseException:
            for learner in learners:
                ray.kill(learner)
            raise
        self._processes |= {f"{_RANK}{rank}": process for rank, process in enumerate(processes)}
        return learners


async def _settled(calls: Sequence[Awaitable[object]]) -> None:
    """Waits up to `_ANSWER_S` until all `calls` have ended; their failures do not matter."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            await asyncio.gather(*calls, return_exceptions=True)
