"""Verdicts on answers already judged: one answer of a group is judged once, not once per sample."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from maspo_dist.types import Verdict

#: A timeout may have been the machine's fault; it stands for one group, not for the run.
_UNVERIFIABLE_S = 60.0


class VerdictMemory:
    """A bounded map from key to verdict, oldest use forgotten first; safe between threads."""

    def __init__(self, capacity: int = 65_536, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[Verdict, float]] = OrderedDict()

    def recall(self, key: str) -> Verdict | None:
        """The verdict remembered under `key`; one that is unverifiable holds for a minute."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            verdict, since = entry
            if not verdict.verifiable and self._clock() - since > _UNVERIFIABLE_S:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return verdict

    def remember(self, key: str, verdict: Verdict) -> None:
        with self._lock:
            self._entries[key] = (verdict, self._clock())
            self._entries.move_to_end(key)
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
