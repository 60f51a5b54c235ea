"""A sample on its way through the pool, and the batch it came with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from maspo_dist.errors import VerifierError
from maspo_dist.reward.pool.wire import Job, encode
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict

Outcome = Verdict | VerifierError


@dataclass(slots=True, eq=False)
class Ticket:
    """`deliver` is called exactly once, by the pool; `deaths` counts processes that died on the sample."""

    sample: Sample
    deliver: Callable[[Outcome], None]
    deaths: int = 0
    _frame: bytes = field(default=b"", init=False)

    @property
    def frame(self) -> bytes:
        """The sample as a message; made when it is first sent, kept in case it is sent again."""
        if not self._frame:
            self._frame = encode(Job(self.sample.response, self.sample.reference, self.sample.source))
        return self._frame


class Batch:
    """Samples handed in together. One lock and one wait for all of them: a future each would cost more
    than most verdicts do."""

    def __init__(self, samples: list[Sample]) -> None:
        self._outcomes: list[Outcome | None] = [None] * len(samples)
        self._left = len(samples)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.tickets = [Ticket(sample, partial(self._put, index)) for index, sample in enumerate(samples)]

    def wait(self) -> list[Verdict]:
        """All verdicts, in order. Raises the first VerifierError instead, once nothing is under way any more."""
        if self.tickets:
            self._done.wait()
        verdicts = []
        for outcome in self._outcomes:
            if isinstance(outcome, VerifierError):
                raise outcome
            assert outcome is not None
            verdicts.append(outcome)
        return verdicts

    def _put(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome
        with self._lock:
            self._left -= 1
            if not self._left:
                self._done.set()
