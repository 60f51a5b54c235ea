"""The Ray side of a rollout worker: builds the engine in its own process and fetches what is sent by reference."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.boundaries import ActorProcess, ProbeSequence, WeightSnapshot, WorkerPublish
from actors.deadline import within
from actors.engines.settings import training_engine
from actors.on_node import mapped_segments
from actors.rollout_worker import Engine, RolloutWorker
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ActorDiedError, DeadlineError, VerifierError
from maspo_dist.logs import LogContext, configure_logging, redirect_output
from maspo_dist.placement import Device
from maspo_dist.types import FloatArray, GroupReport, RolloutGroup, RolloutRequest, Verdict

#: Largest accepted logprob gap between engine and learner, by dtype.
DEFAULT_MAX_LOGPROB_GAP = {"float32": 1e-3, "bfloat16": 0.5}
_SCORING_TRIES = 3
_PING_S = 30.0


class RemoteScorer:
    """The verifier actor, as a worker sees it. One that died is made again by Ray; one that hangs is ended first,
    by whoever finds it silent.
    """

    def __init__(self, verifier: ActorHandle[Any], timeout_s: float) -> None:
        self._verifier = verifier
        self._timeout_s = timeout_s

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when the verifier answers nobody, however often it is started."""
        cause: Exception | None = None
        for _ in range(_SCORING_TRIES):
            try:
                verdict: Verdict = await within(
                    self._timeout_s, "verifier: a verdict", self._verifier.score.remote(response, reference, source)
                )
            except DeadlineError as error:
                cause = error
                await self._end_if_silent()
            except ActorDiedError as error:
                cause = error
            else:
                return verdict
        raise VerifierError(f"a response could not be scored in {_SCORING_TRIES} tries: {cause}")

    async def _end_if_silent(self) -> None:
        """Asks first: another caller may have ended it, and the new one must not be killed for the old one's sake."""
        try:
            await within(_PING_S, "verifier: ping", self._verifier.ping.remote())
        except DeadlineError:
            ray.kill(self._verifier, no_restart=False)
        except ActorDiedError:
            pass


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
        self._scorer = RemoteScorer(verifier, config.cluster.verify_timeout_s)
        self._worker: RolloutWorker | None = None

    async def start(self) -> ActorProcess:
        """Starts the engine, in 7 to 60 s.

        Not in __init__, so that the caller may time it.
        """
        engine = await self._start_engine()
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
        buckets = await asyncio.gather(*snapshot.buckets)
        return await self._started.publish(snapshot, buckets, probes, expected)

    async def ping(self) -> None:
        await self._started.ping()

    async def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    async def _start_engine(self) -> Engine:
        from actors.engines.vllm import VllmEngine  # vLLM reads its environment when imported

        engine = VllmEngine(training_engine(self._config), on_gpu=self._device == "cuda")
        await engine.connect()
        return engine

    @property
    def _started(self) -> RolloutWorker:
        if self._worker is None:
            raise RuntimeError(f"{self._name} was called before start()")
        return self._worker
