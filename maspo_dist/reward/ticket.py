"""A sample on its way through the pool."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from maspo_dist.errors import VerifierError
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict


@dataclass(slots=True, eq=False)
class Ticket:
    """`future` is resolved exactly once; `deaths` counts processes that died on the sample."""

    sample: Sample
    future: Future[Verdict] = field(default_factory=Future)
    deaths: int = 0

    @property
    def size(self) -> int:
        """Characters, as a measure of what a message takes."""
        return len(self.sample.response) + len(self.sample.reference)

    def resolve(self, outcome: Verdict | VerifierError) -> None:
        """The first outcome stands; later ones, from a pool that was closed meanwhile, are ignored."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(outcome, VerifierError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)
