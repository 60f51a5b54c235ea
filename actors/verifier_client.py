"""The verifier actor, as those see it who have responses to score."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.actor import ActorHandle

from actors.deadline import within
from maspo_dist.errors import ActorDiedError, DeadlineError, VerifierError
from maspo_dist.reward import Sample
from maspo_dist.types import Verdict

_TRIES = 3


class VerifierClient:
    """Asks again when the verifier dies: Ray makes it anew, and `verifier_watch` ends one that hangs.

    Responses to one reference that end in the same step of the engine, and so in the same turn of the event loop, go
    as one call: for short answers the call is most of the work. Their verdicts come together.
    """

    def __init__(self, verifier: ActorHandle[Any], timeout_s: float) -> None:
        self._verifier = verifier
        self._timeout_s = timeout_s
        #: By reference and source: responses until the next turn, and the call that will take them.
        self._gathering: dict[tuple[str, str], tuple[list[Sample], asyncio.Task[tuple[Verdict, ...]]]] = {}

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when no verdict comes in several tries of `timeout_s` each."""
        key = (reference, source)
        if key not in self._gathering:
            self._gathering[key] = [], asyncio.create_task(self._call(key), name="verifier: a call")
        samples, call = self._gathering[key]
        number = len(samples)
        samples.append(Sample(response=response, reference=reference, source=source))
        # Shielded, since others may wait for the same call.
        verdicts = await asyncio.shield(call)
        return verdicts[number]

    async def _call(self, key: tuple[str, str]) -> tuple[Verdict, ...]:
        samples, _ = self._gathering.pop(key)
        cause: Exception | None = None
        for _ in range(_TRIES):
            try:
                verdicts: tuple[Verdict, ...] = await within(
                    self._timeout_s, "verifier: verdicts", self._verifier.score.remote(samples)
                )
            except (ActorDiedError, DeadlineError) as error:
                cause = error
            else:
                return verdicts
        raise VerifierError(f"a response could not be scored in {_TRIES} tries: {cause}")
