"""Stops the run when a verifier leaves too many samples without a verdict."""

from __future__ import annotations

import threading
from collections import deque

from maspo_dist.errors import VerifierError


class UnverifiableMonitor:
    """Watches the last `window` samples of each reward; safe between threads.

    A window that is not yet full never fails: the first samples of a run prove little.
    """

    def __init__(self, window: int, max_share: float) -> None:
        self._window = window
        self._max_share = max_share
        self._lock = threading.Lock()
        self._recent: dict[str, deque[bool]] = {}
        self._failure: str | None = None

    def record(self, reward: str, verifiable: bool, reason: str) -> None:
        """Records one sample; the error shows its `reason` if it is the sample that exceeds the limit."""
        with self._lock:
            recent = self._recent.setdefault(reward, deque(maxlen=self._window))
            recent.append(not verifiable)
            if verifiable or len(recent) < self._window or self._failure:
                return
            share = sum(recent) / self._window
            if share > self._max_share:
                self._failure = (
                    f"verifier {reward!r} left {share:.0%} of its last {self._window} samples unverifiable, "
                    f"more than reward.max_unverifiable_share ({self._max_share:.0%}); the last one: {reason}"
                )

    def check(self) -> None:
        """Raises VerifierError, naming the verifier, once a window exceeded the limit."""
        if self._failure:
            raise VerifierError(self._failure)
