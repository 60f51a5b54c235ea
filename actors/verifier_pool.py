"""The Ray side of the verifier pool: one actor that owns one `VerifierPool`."""

from __future__ import annotations

import asyncio

from maspo_dist.reward import Sample, VerifierConfig, VerifierPool
from maspo_dist.types import Verdict


class VerifierActor:
    """Scores responses one by one, as they end. An async actor: give it as many concurrent calls as
    responses may be in flight; the pool bounds what is queued and the callers wait.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._pool = VerifierPool(config)

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when the pool cannot be trusted any more; the run should stop."""
        return await self._pool.verify(Sample(response=response, reference=reference, source=source))

    async def stop(self) -> None:
        """Kills the verifier processes."""
        await asyncio.to_thread(self._pool.close)
