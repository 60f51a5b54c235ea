"""A worker of a standalone evaluation: an engine that serves its model as loaded, and the scorer behind it.

No weights are ever published to it, so there is nothing to prove: it is apart from `RolloutActor`, whose
life is publishes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle

from actors.engines.registry import rollout_engine
from actors.interfaces import EngineSettings, RolloutEngine
from actors.verifier.client import VerifierClient
from maspo_dist.planning.placement import Device
from maspo_dist.runs.logs import configure_logging, redirect_output
from maspo_dist.types import Rollout, RolloutRequest, Verdict


class EvaluationActor:
    """An async actor; as many calls run at once as problems are in flight."""

    def __init__(
        self,
        backend: str,
        settings: EngineSettings,
        index: int,
        device: Device,
        verifier: ActorHandle[Any],
        verify_timeout_s: float,
        logs_path: Path,
    ) -> None:
        redirect_output(configure_logging(f"evaluation-{index}", logs_path))
        self._name = f"evaluation worker {index}"
        self._backend = backend
        self._settings = settings
        self._device = device
        self._scorer = VerifierClient(verifier, verify_timeout_s)
        self._engine: RolloutEngine | None = None

    async def start(self) -> None:
        """Starts the engine; takes 7 to 60 s, more for large models."""
        self._engine = rollout_engine(self._backend)(self._settings, self._device)

    async def sample(self, request: RolloutRequest) -> tuple[tuple[Rollout, Verdict], ...]:
        """All responses to one problem, each scored as soon as it ends."""
        return tuple(await asyncio.gather(*(self._one(request, sample) for sample in range(request.num_samples))))

    async def stop(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    async def _one(self, request: RolloutRequest, sample: int) -> tuple[Rollout, Verdict]:
        if self._engine is None:
            raise RuntimeError(f"{self._name} was called before start()")
        prompt = request.prompt
        rollout = await self._engine.generate(prompt.token_ids, request.sampling, request.seed + sample, None)
        verdict = await self._scorer.score(rollout.text, prompt.reference, prompt.source)
        return rollout, verdict
