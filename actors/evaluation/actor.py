"""A worker of a standalone evaluation: an engine with its model as loaded, and the scorer of its responses.

`RolloutActor` is about published weights and their proof; an evaluation publishes none.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from actors.engines.registry import rollout_engine
from actors.interfaces import EngineSettings, RolloutEngine
from actors.rollout.conversation import Partner, Response, partner_of, respond
from actors.verifier.client import VerifierClient
from maspo_dist.config import EvaluationConfig
from maspo_dist.planning.placement import Device
from maspo_dist.runs.logs import configure_logging, redirect_output
from maspo_dist.types import RolloutRequest


class EvaluationActor:
    """An async actor; as many calls run at once as problems are in flight."""

    def __init__(
        self,
        config: EvaluationConfig,
        settings: EngineSettings,
        index: int,
        device: Device,
        scorer: VerifierClient,
        logs_path: Path,
    ) -> None:
        redirect_output(configure_logging(f"evaluation-{index}", logs_path))
        self._name = f"evaluation worker {index}"
        self._config = config
        self._settings = settings
        self._device = device
        self._scorer = scorer
        self._engine: RolloutEngine | None = None
        self._partner: Partner | None = None

    async def start(self) -> None:
        """Starts the engine, in 7 to 60 s; large models take longer."""
        self._partner = await partner_of(self._config)
        self._engine = rollout_engine(self._config.rollout.backend)(self._settings, self._device)

    async def sample(self, request: RolloutRequest) -> tuple[Response, ...]:
        """All responses to one problem, each scored as soon as it ends."""
        engine = self._engine
        if engine is None:
            raise RuntimeError(f"{self._name} was called before start()")
        responses = await asyncio.gather(
            *(respond(engine, self._scorer, self._partner, request, sample) for sample in range(request.num_samples))
        )
        return tuple(responses)

    async def ping(self) -> int:
        """Tokens that the engine has sampled since its start."""
        assert self._engine is not None
        return await self._engine.ping()

    async def stop(self) -> None:
        if self._partner is not None:
            await self._partner.host.aclose()
            self._partner = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None
