"""Actors whose calls do not end; `taken` says how many are being served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from actors.ray.actor_options import health_call
from actors.verifier.actor import VerifierActor
from doubles.faulty_actors import FaultyRolloutActor
from maspo_dist.reward import Sample
from maspo_dist.types import GroupReport, RolloutGroup, RolloutRequest, Verdict

_FOR_EVER_S = 3600


class BusyVerifier(VerifierActor):
    """The source of the first response says how it is busy."""

    _taken = 0

    async def score(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        self._taken += 1
        if samples[0].source == "hang":
            time.sleep(_FOR_EVER_S)  # noqa: ASYNC251
        await asyncio.sleep(_FOR_EVER_S)
        raise AssertionError

    @health_call
    async def taken(self) -> int:
        return self._taken


class BusyRolloutActor(FaultyRolloutActor):
    _taken = 0

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        self._taken += 1
        await asyncio.sleep(_FOR_EVER_S)
        raise AssertionError

    @health_call
    async def taken(self) -> int:
        return self._taken
