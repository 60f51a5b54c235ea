"""The Ray side of a rollout worker: builds the engine in its own process and fetches what is sent by reference."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.engines.vllm.settings import training_engine
from actors.interfaces import ActorProcess, ProbeSequence, WeightSnapshot, WorkerPublish
from actors.ray.health import answered_by, health_call
from actors.ray.on_node import mapped_segments
from actors.rollout.worker import Engine, RolloutWorker
from actors.verifier.client import VerifierClient
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ActorDiedError, LearnerLostError, MaspoError
from maspo_dist.planning.placement import Device
from maspo_dist.runs.logs import LogContext, configure_logging, redirect_output
from maspo_dist.types import FloatArray, GroupReport, RolloutGroup, RolloutRequest

logger = logging.getLogger(__name__)

#: Largest accepted logprob gap between engine and learner, by dtype.
DEFAULT_MAX_LOGPROB_GAP = {"float32": 1e-3, "bfloat16": 0.5}


class RolloutActor:
    """An async actor; as many calls run at once as groups are in flight."""

    def __init__(
        self, config: TrainConfig, index: int, device: Device, verifier: ActorHandle[Any], logs_path: Path
    ) -> None:
        context = LogContext("rollout", index)
        redirect_output(configure_logging(context, logs_path))
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        self._name = f"rollout worker {index}"
        self._config = config
        self._device = device
        self._scorer = VerifierClient(verifier, config.cluster.verify_timeout_s)
        self._worker: RolloutWorker | None = None
        self._serving = asyncio.get_running_loop()

    async def start(self) -> ActorProcess:
        """Starts the engine, in 7 to 60 s.

        Not in __init__, so that the caller may time it. Raises ActorDiedError where the engine does not start; its
        own words are in the log.
        """
        try:
            engine = await self._start_engine()
        except MaspoError:
            raise
        except Exception as error:
            logger.exception("the engine does not start")
            raise ActorDiedError(f"{self._name}: its engine does not start: {error}") from error
        gap = self._config.sync.max_logprob_gap or DEFAULT_MAX_LOGPROB_GAP[self._config.model.dtype]
        self._worker = RolloutWorker(self._name, engine, self._scorer, gap)
        return ActorProcess(
            node_id=ray.get_runtime_context().get_node_id(), pid=os.getpid(), segments=mapped_segments(os.getpid())
        )

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        return await self._started.generate(request)

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> WorkerPublish:
        try:
            buckets = await asyncio.gather(*snapshot.buckets)
        except ray.exceptions.ObjectLostError as error:
            raise LearnerLostError(
                f"the weights of policy version {snapshot.version} are gone with the learner that held them"
            ) from error
        return await self._started.publish(snapshot, buckets, probes, expected)

    @health_call
    async def ping(self) -> None:
        await answered_by(self._serving, self._started.ping())

    async def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    async def _start_engine(self) -> Engine:
        from actors.engines.vllm.engine import VllmEngine  # vLLM reads its environment when imported

        engine = VllmEngine(training_engine(self._config), on_gpu=self._device == "cuda")
        await engine.connect()
        return engine

    @property
    def _started(self) -> RolloutWorker:
        if self._worker is None:
            raise ActorDiedError(f"{self._name} is not running")
        return self._worker
