"""The processes of a standalone evaluation: engines and a verifier, no learner."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors.engines.settings import engine_environment
from actors.evaluation.actor import EvaluationActor
from actors.evaluation.worker import EvaluationWorker
from actors.interfaces import EngineSettings
from actors.ray.actor_options import CONCURRENT_CALLS, actor_environment, bundle_options, share_of_cores
from actors.ray.model_on_nodes import require_model_on_nodes
from actors.ray.nodes import shortage
from actors.ray.placement_groups import reserve, reserve_on_new_nodes
from actors.ray.waits import within
from actors.rollout.conversation import Response
from actors.verifier.client import VerifierClient
from actors.verifier.process import VerifierProcess
from maspo_dist.config import EvaluationConfig
from maspo_dist.planning.placement import Bundle, Device
from maspo_dist.types import RolloutRequest

logger = logging.getLogger(__name__)

_STOP_S = 30.0


class EvaluationCluster:
    """Places, starts and ends the processes. Implements `actors.evaluation.sampling.EvaluationPool`."""

    def __init__(self, config: EvaluationConfig, bundles: tuple[Bundle, ...], device: Device, logs_path: Path) -> None:
        """`bundles` come from `plan_evaluation`: engines, then the verifier."""
        self._config = config
        self._bundles = bundles
        self._device: Device = device
        self._logs = logs_path.resolve()
        self._group: PlacementGroup | None = None
        self._verifier: VerifierProcess | None = None
        self._workers: list[EvaluationWorker] = []

    async def start(self, settings: EngineSettings, waiting_for: Callable[[str], None]) -> None:
        """Starts all processes concurrently, reporting what it waits for. Always call `stop` afterwards.

        Raises PlacementError when the cluster is too small and no autoscaler adds nodes in time, or stays full,
        ModelError when a node lacks the model, DeadlineError past `cluster.start_timeout_s`, and whatever makes a
        process fail.
        """
        lack = await asyncio.to_thread(shortage, self._bundles)
        config, (engine, verifier) = self._config, self._bundles
        if lack is not None:
            node_s = config.cluster.node_timeout_s
            [self._group] = await reserve_on_new_nodes([self._bundles], lack, node_s, waiting_for)
        deadline_s = time.monotonic() + config.cluster.start_timeout_s
        waiting_for("the model on every node")
        environment = actor_environment(config.cluster.environment)
        await require_model_on_nodes(config.model.path, self._device, environment, config.cluster.start_timeout_s)
        if self._group is None:
            self._group = await reserve(self._bundles, config.cluster.start_timeout_s, waiting_for)
        group = self._group
        configured = config.cluster.environment
        options = bundle_options(group, engine.count, verifier, configured)
        self._verifier = VerifierProcess(config.reward, config.cluster, self._logs, options)
        of_engine = engine_environment(self._device, share_of_cores(self._device, engine.count))
        scorer = VerifierClient(self._verifier.handle, config.cluster.verify_timeout_s)
        handles = [
            ray.remote(EvaluationActor)
            .options(**bundle_options(group, index, engine, configured, of_engine), max_concurrency=CONCURRENT_CALLS)
            .remote(config, settings, index, self._device, scorer, self._logs)
            for index in range(engine.count)
        ]
        self._workers = [EvaluationWorker(index, handle, config.cluster) for index, handle in enumerate(handles)]
        waiting_for(f"{engine.count} vLLM engine{'s' if engine.count > 1 else ''}")
        await asyncio.gather(
            *(
                within(deadline_s - time.monotonic(), f"{worker.name}: start", worker.handle.start.remote())
                for worker in self._workers
            )
        )

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    async def sample(self, worker: int, request: RolloutRequest) -> Sequence[Response]:
        """See `EvaluationWorker.sample`."""
        return await self._workers[worker].sample(request)

    async def watch(self) -> None:
        """Runs until cancelled, once the cluster is started: follows the engines, and restarts the verifier."""
        assert self._verifier is not None
        await asyncio.gather(
            self._verifier.watch(lambda event: logger.warning("%s", event.message)),
            *(worker.follow() for worker in self._workers),
        )

    async def stop(self) -> None:
        """Ends every process, gently first, so that engines end their own children."""
        stops = [within(_STOP_S, "evaluation: stop", worker.handle.stop.remote()) for worker in self._workers]
        verifier = [self._verifier.stop()] if self._verifier else []
        await asyncio.gather(*stops, *verifier, return_exceptions=True)
        for worker in self._workers:
            ray.kill(worker.handle)
        if self._group is not None:
            remove_placement_group(self._group)
