"""A worker of a standalone evaluation: an engine with its model as loaded, and the scorer of its responses.

`RolloutActor` is about published weights and their proof; an evaluation publishes none.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

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
        scorer: VerifierClient,
        logs_path: Path,
    ) -> None:
        redirect_output(configure_logging(f"evaluation-{index}", logs_path))
        self._name = f"evaluation worker {index}"
        self._backend = backend
        self._settings = settings
        self._device = device
        self._scorer = scorer
        self._engine: RolloutEngine | None = None

    async def start(self) -> None:
        """Starts the engine, in 7 to 60 s; large models take longer."""
        self._engine = rollout_engine(self._backend)(self._settings, self._device)

    async def sample(self, request: RolloutRequest) -> tuple[tuple[Rollout, Verdict], ...]:
        """All responses to one problem, each scored as soon as it ends."""
        prompt, engine = request.prompt, self._engine
        if engine is None:
            raise RuntimeError(f"{self._name} was called before start()")

        async def one(number: int) -> tuple[Rollout, Verdict]:
            rollout = await engine.generate(prompt.token_ids, request.sampling, request.seed + number, None)
            return rollout, await self._scorer.score(
                prompt.response_start + rollout.text, prompt.reference, prompt.source
            )

        return tuple(await asyncio.gather(*map(one, range(request.num_samples))))

    async def stop(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
