"""The driver's side of an evaluation worker: a problem has no deadline while the worker samples tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ray.actor import ActorHandle

from actors.ray.waits import within
from actors.rollout.conversation import Response
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import ActorDiedError, DeadlineError
from maspo_dist.types import RolloutRequest


class EvaluationWorker:
    """Calls one `EvaluationActor`. `follow` must run while `sample` waits."""

    def __init__(self, index: int, handle: ActorHandle[Any], config: ClusterConfig) -> None:
        self.name = f"evaluation worker {index}"
        self.handle = handle
        self._config = config
        #: Sampled so far, by the last ping.
        self._tokens = 0
        #: Event loop time at which a ping last brought more tokens.
        self._last_token_s = 0.0

    async def sample(self, request: RolloutRequest) -> Sequence[Response]:
        """All responses to one problem with their verdicts.

        Raises DeadlineError after `cluster.generate_timeout_s` without a token of any problem, ActorDiedError,
        VerifierError.
        """
        what = f"{self.name}: problem {request.prompt.prompt_id}"
        answer = self.handle.sample.remote(request)
        responses: Sequence[Response] = await within(
            self._config.generate_timeout_s, what, answer, lambda: self._last_token_s
        )
        return responses

    async def follow(self) -> None:
        """Asks every `cluster.heartbeat_s` how many tokens the engine has sampled; ends with the worker."""
        with suppress(ActorDiedError):
            while True:
                await asyncio.sleep(self._config.heartbeat_s)
                # An engine that does not answer samples no token either, so `sample` reaches its deadline.
                with suppress(DeadlineError):
                    await self._ask()

    async def _ask(self) -> None:
        tokens = await within(self._config.heartbeat_timeout_s, f"{self.name}: ping", self.handle.ping.remote())
        if tokens != self._tokens:
            self._tokens, self._last_token_s = tokens, asyncio.get_running_loop().time()
