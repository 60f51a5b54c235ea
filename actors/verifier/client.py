"""Client of the verifier actor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.actor import ActorHandle

from actors.ray.waits import within
from maspo_dist.errors import ActorDiedError, DeadlineError, VerifierError
from maspo_dist.reward import Sample
from maspo_dist.types import Verdict

_TRIES = 3
#: Responses per call. A call returns when its slowest verdict is there.
_CALL_SAMPLES = 32


class VerifierClient:
    """Scores responses, and asks again when the verifier dies or hangs, because a dead verifier is restarted.

    Responses that end in the same step of the engine, and so in the same turn of the event loop, share a call: for
    short answers the call is most of the work.
    """

    def __init__(self, verifier: ActorHandle[Any], timeout_s: float) -> None:
        self._verifier = verifier
        self._timeout_s = timeout_s
        #: The samples of a call that takes more of them until the next turn, and its verdicts.
        self._next: tuple[list[Sample], asyncio.Task[tuple[Verdict, ...]]] | None = None

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when no verdict comes in several tries of `timeout_s` each."""
        if self._next is None:
            samples: list[Sample] = []
            self._next = samples, asyncio.create_task(self._ask(samples), name="verifier: a call")
        samples, verdicts = self._next
        number = len(samples)
        samples.append(Sample(response=response, reference=reference, source=source))
        if len(samples) == _CALL_SAMPLES:
            self._next = None
        # Shielded, since other responses may wait for the same call.
        return (await asyncio.shield(verdicts))[number]

    async def _ask(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        if self._next is not None and self._next[0] is samples:
            self._next = None
        cause: Exception | None = None
        for _ in range(_TRIES):
            try:
                call: Any = self._verifier.score.remote(samples)
                verdicts: tuple[Verdict, ...] = await within(self._timeout_s, "verifier: verdicts", call)
            except (ActorDiedError, DeadlineError) as error:
                cause = error
            else:
                return verdicts
        raise VerifierError(f"a response could not be scored in {_TRIES} tries: {cause}")
