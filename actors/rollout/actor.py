"""One rollout worker: an engine, the scorer of its responses, and the proof of its weights.

A response is scored as soon as it ends, while other responses of its group still generate. No result leaves the
worker before the weights it was generated with are proven, see `publish`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.engines.abilities import MovableEngine, ReportingEngine, SleepingEngine
from actors.engines.registry import rollout_engine
from actors.engines.settings import training_engine
from actors.interfaces import (
    ActorProcess,
    Body,
    Broadcast,
    MappedFile,
    PublishReport,
    RolloutEngine,
    StagedWeights,
    WeightSnapshot,
    WeightUpdate,
)
from actors.ray.actor_options import answered_by, health_call
from actors.ray.errors import translate_ray_errors
from actors.ray.on_node import mapped_segments
from actors.rollout.conversation import Partner, Scorer, finished_group, partner_of, respond
from actors.rollout.proof import logprob_gaps, require_proven
from actors.weights.shared_devices import SharedDevices
from actors.weights.shared_memory import NeighbourMemory
from actors.weights.transport import weight_transport
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ActorDiedError, MaspoError, WeightSyncError
from maspo_dist.planning.placement import Device
from maspo_dist.runs.live import EngineFigures
from maspo_dist.runs.logs import configure_logging, redirect_output
from maspo_dist.types import GroupReport, RolloutGroup, RolloutRequest

logger = logging.getLogger(__name__)


class RolloutActor:
    """An async actor that serves as many calls at once as groups are in flight, and one publish at a time."""

    def __init__(self, config: TrainConfig, index: int, device: Device, scorer: Scorer, logs_path: Path) -> None:
        self._config = config
        self._index = index
        self._name = f"rollout worker {index}"
        self._device = device
        self._scorer = scorer
        self._logs_path = logs_path
        self._transport = weight_transport(config.sync.transport)()
        self._neighbour = NeighbourMemory()
        self._running: RolloutEngine | None = None
        self._partner: Partner | None = None
        self._proven = asyncio.Event()
        self._was_published_to = False
        #: Held by the call that changes the engine's weights.
        self._weights_lock = asyncio.Lock()
        self._open_calls: set[asyncio.Task[Any]] = set()
        self._serving = asyncio.get_running_loop()

    async def start(self) -> ActorProcess:
        """Sets this process up and starts the engine, in 7 to 60 s; a call of its own, so that it has a deadline."""
        redirect_output(configure_logging(f"rollout-{self._index}", self._logs_path))
        await self.start_engine()
        return self._process()

    async def start_engine(self) -> None:
        """Raises ActorDiedError when the engine does not start; the engine's own messages are in the log."""
        try:
            self._partner = await self._make_partner()
            self._running = await self._make_engine()
        except MaspoError:
            raise
        except Exception as error:
            logger.exception("the engine does not start")
            raise ActorDiedError(f"{self._name}: its engine does not start: {error}") from error

    async def rest(self) -> None:
        """Returns when the engine, which keeps running, has no request, and environments have ended; see `renew`.

        Raises WeightSyncError while no weights are proven, since a publish may have been cut short.
        """
        if not self._proven.is_set():
            raise WeightSyncError(f"{self._name}: its last publish was not completed")
        while self._open_calls:
            await asyncio.wait(self._open_calls)
        await self._end_environments()

    async def renew(self, config: TrainConfig, index: int, scorer: Scorer, logs_path: Path) -> ActorProcess:
        """Makes this a worker of another run with an equal engine, as if it had just started.

        The next publish counts as the first publish, so it is proven that it reaches every parameter.
        """
        log = configure_logging(f"rollout-{index}", logs_path)
        redirect_output(log)
        if isinstance(self._engine, MovableEngine):
            await self._engine.log_to(log)
        self._config, self._index, self._name, self._scorer = config, index, f"rollout worker {index}", scorer
        self._logs_path = logs_path
        self._was_published_to = False
        self._proven.clear()
        self._partner = await self._make_partner()
        return self._process()

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        """Samples and scores one group."""
        call = asyncio.current_task()
        assert call is not None
        self._open_calls.add(call)
        try:
            return await self._generate(request)
        finally:
            self._open_calls.discard(call)

    async def _generate(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        engine, scorer, partner = self._engine, self._scorer, self._partner
        responses = await asyncio.gather(
            *(respond(engine, scorer, partner, request, sample) for sample in range(request.num_samples))
        )
        await self._proven.wait()
        return finished_group(request, responses)

    async def stage(self, update: WeightUpdate) -> StagedWeights:
        """Receives the weights of `update` for all workers of this node; raises as the transport's `receive` does."""
        assert isinstance(update.snapshot, WeightSnapshot)
        try:
            return await self._transport.receive(update.snapshot)
        except WeightSyncError as error:
            raise WeightSyncError(f"{self._name} {error}") from None

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None = None) -> PublishReport:
        """Loads the weights of `update`, which are `staged` by a worker of this node or come straight from the learner,
        or else receives them; proves them.

        Raises WeightSyncError when the proof fails, WeightTransferError, and what the transport's `receive` raises.
        After a failure no result leaves the worker until a later publish succeeds.
        """
        async with self._weights_lock:
            return await self._publish(update, staged)

    async def sleep(self) -> None:
        """Leaves the device to the learners until the next `publish`."""
        async with self._weights_lock:
            engine = self._engine
            assert isinstance(engine, SleepingEngine)
            self._proven.clear()
            await engine.sleep()

    async def _publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        engine = self._engine
        started_s = time.perf_counter()
        weights = self._opened(staged) or await self.stage(update)
        received_s = time.perf_counter()
        self._proven.clear()
        await engine.pause()
        unreached: Sequence[str] = ()
        if self._was_published_to:
            await engine.load(weights)
        else:
            unreached = await engine.load_by_detour(weights)
        loaded_s = time.perf_counter()
        await engine.resume()
        stale, logprobs = await asyncio.gather(
            engine.stale_parameters(weights), asyncio.gather(*map(engine.prompt_logprobs, update.probes))
        )
        gaps = logprob_gaps(logprobs, update.expected)
        require_proven(self._name, update.version, unreached, stale, gaps, update.max_mean_gap)
        self._was_published_to = True
        self._proven.set()
        return PublishReport(
            version=update.version,
            mean_logprob_gap=gaps.mean,
            max_logprob_gap=gaps.largest,
            transfer_s=received_s - started_s,
            pause_s=loaded_s - received_s,
        )

    @health_call
    async def ping(self) -> tuple[int, EngineFigures | None]:
        """See `RolloutEngine.ping` and `ReportingEngine`."""
        engine = self._engine
        tokens = await answered_by(self._serving, engine.ping())
        return tokens, engine.figures() if isinstance(engine, ReportingEngine) else None

    async def stop(self) -> None:
        """Ends the processes of the engine and of environments."""
        await self._end_environments()
        if self._running is not None:
            self._running.close()
            self._running = None
            self._transport.close()
            self._neighbour.close()

    async def _end_environments(self) -> None:
        if self._partner is not None:
            await self._partner.host.aclose()
            self._partner = None

    def _process(self) -> ActorProcess:
        node_id, segments = ray.get_runtime_context().get_node_id(), mapped_segments(os.getpid())
        return ActorProcess(node_id=node_id, pid=os.getpid(), segments=segments)

    def _opened(self, staged: StagedWeights | None) -> StagedWeights | None:
        """`staged` as this process reads it; None when there is nothing to share, or its process has died."""
        if staged is not None and isinstance(staged.source, Broadcast | SharedDevices):
            return staged
        if staged is None or not isinstance(staged.source, MappedFile):
            return None
        try:
            return replace(staged, source=self._neighbour.open(staged.source))
        except OSError as error:
            logger.warning("weights that another worker staged are gone: %s", error)
            return None

    async def _make_engine(self) -> RolloutEngine:
        return rollout_engine(self._config.rollout.backend)(training_engine(self._config), self._device)

    async def _make_partner(self) -> Partner | None:
        return await partner_of(self._config)

    @property
    def _engine(self) -> RolloutEngine:
        if self._running is None:
            raise ActorDiedError(f"{self._name} is not running")
        return self._running


@dataclass(eq=False)
class RayRolloutWorker:
    """The pool's side of a rollout actor: implements `interfaces.RolloutWorkerHandle`. The pool sets the deadlines.

    `release` frees the worker's resources in the cluster.
    """

    name: str
    handle: ActorHandle[Any]
    release: Callable[[], None]
    figures: EngineFigures | None = field(init=False, default=None)
    _node_id: str = field(init=False, default="")

    async def start(self) -> ActorProcess:
        """Starts the engine."""
        with translate_ray_errors(f"{self.name}: start"):
            process: ActorProcess = await self.handle.start.remote()
        self._node_id = process.node_id
        return process

    async def renew(self, config: TrainConfig, index: int, scorer: Scorer, logs_path: Path) -> ActorProcess:
        """In place of `start`, for a process with an engine at rest; see `RolloutActor.renew`."""
        with translate_ray_errors(f"{self.name}: renewal"):
            process: ActorProcess = await self.handle.renew.remote(config, index, scorer, logs_path)
        self._node_id = process.node_id
        return process

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        """The report and a reference to the group, which stays in the object store.

        Cancelling the call cancels its requests in the engine.
        """
        report_ref, body = self.handle.generate.options(num_returns=2).remote(request)
        try:
            with translate_ray_errors(self.name):
                report: GroupReport = await report_ref
        except asyncio.CancelledError:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(report_ref)
            raise
        return report, body

    @property
    def node_id(self) -> str:
        return self._node_id

    async def stage(self, update: WeightUpdate) -> StagedWeights:
        with translate_ray_errors(self.name):
            staged: StagedWeights = await self.handle.stage.remote(update)
        return staged

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        with translate_ray_errors(self.name):
            report: PublishReport = await self.handle.publish.remote(update, staged)
        return report

    async def sleep(self) -> None:
        with translate_ray_errors(self.name):
            await self.handle.sleep.remote()

    async def ping(self) -> int:
        with translate_ray_errors(self.name):
            tokens: int
            tokens, self.figures = await self.handle.ping.remote()
        return tokens

    async def is_gone_with_its_node(self) -> bool:
        with translate_ray_errors("the cluster: its nodes"):
            nodes = await asyncio.to_thread(ray.nodes)
        return all(node["NodeID"] != self._node_id for node in nodes if node["Alive"])

    async def stop(self) -> None:
        with translate_ray_errors(self.name):
            await self.handle.stop.remote()

    def kill(self) -> None:
        ray.kill(self.handle, no_restart=True)
        self.release()
