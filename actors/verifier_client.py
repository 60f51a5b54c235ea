"""The verifier actor, as those see it who have responses to score."""

from __future__ import annotations

from typing import Any

from ray.actor import ActorHandle

from actors.deadline import within
from maspo_dist.errors import ActorDiedError, DeadlineError, VerifierError
from maspo_dist.types import Verdict

_TRIES = 3


class VerifierClient:
    """Asks again when the verifier dies: Ray makes it anew, and `verifier_watch` ends one that hangs."""

    def __init__(self, verifier: ActorHandle[Any], timeout_s: float) -> None:
        self._verifier = verifier
        self._timeout_s = timeout_s

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        """Raises VerifierError when no verdict comes in several tries of `timeout_s` each."""
        cause: Exception | None = None
        for _ in range(_TRIES):
            try:
                verdict: Verdict = await within(
                    self._timeout_s, "verifier: a verdict", self._verifier.score.remote(response, reference, source)
                )
            except (ActorDiedError, DeadlineError) as error:
                cause = error
            else:
                return verdict
        raise VerifierError(f"a response could not be scored in {_TRIES} tries: {cause}")
