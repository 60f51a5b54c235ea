"""The verifier actor, as those see it who have responses to score."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from actors.ray.waits import within
from maspo_dist.errors import ActorDiedError, DeadlineError, VerifierError
from maspo_dist.reward import Sample
from maspo_dist.types import Verdict

_TRIES = 3
#: At most as many responses a call: their verdicts come together, so that a slow one holds the others up.
_CALL_SAMPLES = 32


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    samples: list[Sample]
    verdicts: asyncio.Task[tuple[Verdict, ...]]


class VerifierClient:
    """Asks again when the verifier dies: Ray makes it anew, and `verifier_watch` ends one that hangs.

    Responses that end in the same step of the engine, and so in the same turn of the event loop, share a call: for
    short answers the call is most of the work.
    """

    def __init__(self, verifier: ActorHandle[Any], timeout_s: float) -> None:
        self._verifier = verifier
        self._timeout_s = timeout_s
        #: Takes more responses until the next turn.
        self._next: _Call | None = None

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when no verdict comes in several tries of `timeout_s` each."""
        if self._next is None:
            samples: list[Sample] = []
            self._next = _Call(samples, asyncio.create_task(self._ask(samples), name="verifier: a call"))
        call = self._next
        number = len(call.samples)
        call.samples.append(Sample(response=response, reference=reference, source=source))
        if len(call.samples) == _CALL_SAMPLES:
            self._next = None
        # Shielded, since others may wait for the same call.
        verdicts = await asyncio.shield(call.verdicts)
        return verdicts[number]

    async def _ask(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        if self._next is not None and self._next.samples is samples:
            self._next = None
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
