"""The Ray side of a rollout worker: builds the engine in its own process and fetches what is sent by reference."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle

from actors.boundaries import ProbeSequence, WeightSnapshot
from actors.engines.settings import training_engine
from actors.rollout_worker import RolloutWorker, WorkerPublish
from maspo_dist.config import TrainConfig
from maspo_dist.logs import LogContext, configure_logging, redirect_output
from maspo_dist.placement import Device
from maspo_dist.types import FloatArray, GroupReport, RolloutGroup, RolloutRequest, Verdict

#: Largest accepted logprob gap between engine and learner, by dtype.
DEFAULT_MAX_LOGPROB_GAP = {"float32": 1e-3, "bfloat16": 0.5}


class RemoteScorer:
    """The verifier actor, as a worker sees it."""

    def __init__(self, verifier: ActorHandle[Any]) -> None:
        self._verifier = verifier

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        verdict: Verdict = await self._verifier.score.remote(response, reference, source)
        return verdict


class RolloutActor:
    """An async actor; as many calls run at once as groups are in flight."""

    def __init__(
        self, config: TrainConfig, index: int, device: Device, verifier: ActorHandle[Any], logs_path: Path
    ) -> None:
        context = LogContext("rollout", index)
        redirect_output(configure_logging(context, logs_path))
        self._name = f"rollout worker {index}"
        self._config = config
        self._device = device
        self._scorer = RemoteScorer(verifier)
        self._worker: RolloutWorker | None = None

    async def start(self) -> None:
        """Starts the engine; takes 7 to 60 s. Not in __init__, so that the caller may time it."""
        from actors.engines.vllm import VllmEngine  # vLLM reads its environment when imported

        engine = VllmEngine(training_engine(self._config), on_gpu=self._device == "cuda")
        await engine.connect()
        gap = self._config.sync.max_logprob_gap or DEFAULT_MAX_LOGPROB_GAP[self._config.model.dtype]
        self._worker = RolloutWorker(self._name, engine, self._scorer, gap)

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        return await self._started.generate(request)

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> WorkerPublish:
        buckets = await asyncio.gather(*snapshot.buckets)
        return await self._started.publish(snapshot, buckets, probes, expected)

    async def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    @property
    def _started(self) -> RolloutWorker:
        if self._worker is None:
            raise RuntimeError(f"{self._name} was called before start()")
        return self._worker
