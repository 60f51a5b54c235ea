"""Samples that lately had no verdict by their deadline: a repeat gets the same verdict at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict

#: A timeout may have been the machine's fault: it holds for the responses of a group, not for the run.
_SECONDS = 60.0
_MOST = 1_024


class HungSamples:
    """The last `timeout` verdicts by sample, at most 1,024 and each for 60 seconds; safe between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._verdicts: dict[Sample, tuple[Verdict, float]] = {}

    def recall(self, sample: Sample) -> Verdict | None:
        """The verdict on `sample`, while it is remembered."""
        # Hashing a sample costs more than this look; mostly nothing hung.
        verdict, since = self._verdicts.get(sample, (None, 0.0)) if self._verdicts else (None, 0.0)
        return verdict if self._clock() - since <= _SECONDS else None

    def remember(self, sample: Sample, verdict: Verdict) -> None:
        with self._lock:
            self._verdicts.pop(sample, None)
            if len(self._verdicts) == _MOST:
                del self._verdicts[next(iter(self._verdicts))]
            self._verdicts[sample] = (verdict, self._clock())
