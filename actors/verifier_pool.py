"""The Ray side of the verifier pool: one actor that owns one `VerifierPool`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from maspo_dist.reward import ProcessDeath, Sample, VerifierConfig, VerifierPool
from maspo_dist.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierHealth:
    """The actor's process, and which of its verifier processes died since it was last asked."""

    pid: int
    deaths: tuple[ProcessDeath, ...]


class VerifierActor:
    """Scores responses one by one, as they end. An async actor: give it as many concurrent calls as
    responses may be in flight; the pool bounds what is queued and the callers wait.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._pool = VerifierPool(config)

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when the pool cannot be trusted any more; the run should stop."""
        return await self._pool.verify(Sample(response=response, reference=reference, source=source))

    async def ping(self) -> VerifierHealth:
        """Answers when the event loop that takes samples does. Each death is told once."""
        return VerifierHealth(pid=os.getpid(), deaths=self._pool.take_deaths())

    async def stop(self) -> None:
        """Kills the verifier processes."""
        await asyncio.to_thread(self._pool.close)
