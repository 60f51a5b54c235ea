"""Ends a run that leaves too many samples without a verdict."""

from __future__ import annotations

import threading
from collections import deque

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError


class UnverifiableMonitor:
    """Watches the last `unverifiable_window` samples of each subject, once there are as many; safe between threads."""

    def __init__(self, config: VerifierConfig) -> None:
        self._window = config.unverifiable_window
        self._max_share = config.max_unverifiable_share
        self._lock = threading.Lock()
        self._recent: dict[str, deque[bool]] = {}
        self._failure: str | None = None

    def record(self, subject: str, verifiable: bool, reason: str) -> None:
        """Records one sample of `subject`, such as "verifier 'math'"; the error shows its `reason` if it is the sample
        that exceeds the limit.
        """
        with self._lock:
            recent = self._recent.setdefault(subject, deque(maxlen=self._window))
            recent.append(not verifiable)
            if verifiable or len(recent) < self._window or self._failure:
                return
            share = sum(recent) / self._window
            if share > self._max_share:
                self._failure = (
                    f"{subject} left {share:.0%} of its last {self._window} samples unverifiable, "
                    f"more than reward.max_unverifiable_share ({self._max_share:.0%}); the last one: {reason}"
                )

    def check(self) -> None:
        """Raises VerifierError, naming the subject, once a window exceeded the limit."""
        if self._failure:
            raise VerifierError(self._failure)
