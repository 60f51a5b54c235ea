"""Client of the verifier actor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.ray.errors import translate_ray_errors
from actors.ray.waits import within
from maspo_dist.errors import ActorDiedError, DeadlineError, MaspoError, VerifierError
from maspo_dist.reward import Sample
from maspo_dist.types import Verdict

_TRIES = 3
#: Responses per call. A call returns when its slowest verdict is there.
_CALL_SAMPLES = 32
#: How often within its deadline a call asks when the verifier gave its last verdict.
_LOOKS = 10


class VerifierClient:
    """Scores responses, and asks again when the verifier dies or hangs, because a dead verifier is restarted.

    The verifier serves the responses of all workers in one queue. A call may wait there for as long as verdicts come,
    on whichever response.

    Responses that end in the same step of the engine, and so in the same turn of the event loop, share a call: for
    short answers the call is most of the work.
    """

    def __init__(self, verifier: ActorHandle[Any], timeout_s: float) -> None:
        """`timeout_s`: seconds without a verdict after which the verifier is taken to hang."""
        self._verifier = verifier
        self._timeout_s = timeout_s
        #: When the verifier gave a verdict last, as far as it was asked: an event loop time.
        self._last_verdict_s = 0.0
        #: The samples of a call that takes more of them until the next turn, and its verdicts.
        self._next: tuple[list[Sample], asyncio.Task[tuple[Verdict, ...]]] | None = None

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when the verifier dies or hangs in several tries."""
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
                return await self._try(samples)
            except (ActorDiedError, DeadlineError) as error:
                cause = error
        raise VerifierError(f"a response could not be scored in {_TRIES} tries: {cause}")

    async def _try(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        """Raises DeadlineError when the verifier gives no verdict at all for `timeout_s`."""
        looking = asyncio.create_task(self._look(), name="verifier: its last verdict")
        try:
            call = self._call(samples)
            return await within(self._timeout_s, "verifier: verdicts", call, lambda: self._last_verdict_s)
        finally:
            looking.cancel()

    async def _call(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        """Cancelling it cancels the call, so that its samples leave the queue."""
        call: Any = self._verifier.score.remote(samples)
        try:
            verdicts: tuple[Verdict, ...] = await call
        except asyncio.CancelledError:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(call)
            raise
        return verdicts

    async def _look(self) -> None:
        """Keeps the time of the last verdict. A verifier that does not answer has given none."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeout_s / _LOOKS)
            asked_s = loop.time()
            with contextlib.suppress(MaspoError), translate_ray_errors("verifier: its last verdict"):
                idle_s: float = await self._verifier.idle_s.remote()
                self._last_verdict_s = max(self._last_verdict_s, asked_s - idle_s)
