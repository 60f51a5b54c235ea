"""What to do when something fails. Decisions only: no I/O, no clock of its own, testable without a cluster.

a worker died with a group in flight    → after_loss: sample the group elsewhere, at last alone, or set it aside
a worker or the learner group was lost  → RestartBudget: restart after a pause, or give up
nothing goes on                        → after_stall: end the oldest wait, end the run, or only tell
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

GroupFate = Literal["retry", "retry_alone", "set_aside"]
StallAction = Literal["restart", "fail", "report"]


def after_loss(losses: int, was_alone: bool, max_attempts: int) -> GroupFate:
    """What becomes of a group that was in flight on a worker that died, for the `losses`-th time.

    A worker that dies takes all its groups along, so a loss proves little about any of them. The last of `max_attempts`
    is therefore made with no other group on the worker: a worker that dies then was killed by this prompt. If a whole
    node died, the deaths of its workers are not among `losses`.
    """
    if was_alone or losses >= max_attempts:
        return "set_aside"
    return "retry_alone" if losses == max_attempts - 1 else "retry"


@dataclass(slots=True)
class RestartBudget:
    """At most `limit` restarts in any `window_s`, after pauses that double: backoff_s, 2·backoff_s, … backoff_max_s."""

    limit: int
    window_s: float
    backoff_s: float
    backoff_max_s: float
    _losses: deque[float] = field(default_factory=deque)

    def lost(self, now_s: float) -> float | None:
        """Notes a loss; returns the pause before the restart, or None when the budget is used up."""
        while self._losses and now_s - self._losses[0] > self.window_s:
            self._losses.popleft()
        self._losses.append(now_s)
        if len(self._losses) > self.limit:
            return None
        # The exponent is bounded, so that a large limit cannot overflow.
        return min(self.backoff_max_s, self.backoff_s * 2.0 ** min(len(self._losses) - 1, 32))

    def forgive(self) -> None:
        """Removes the last loss, which a prompt turned out to have caused."""
        if self._losses:
            self._losses.pop()


@dataclass(frozen=True, slots=True, kw_only=True)
class StallVerdict:
    """What the watchdog does about a stall; `waits` are what was open, oldest first."""

    action: StallAction
    message: str


def after_stall(waits: tuple[str, ...], stalled_s: float, configured: StallAction) -> StallVerdict:
    """Names what everything waits for. Without an open wait nothing can be restarted, so the run ends."""
    if not waits:
        return StallVerdict(
            action="report" if configured == "report" else "fail",
            message=f"no progress for {stalled_s:.0f} s, and nothing is waited for",
        )
    more = f" (and {len(waits) - 1} more)" if len(waits) > 1 else ""
    return StallVerdict(action=configured, message=f"no progress for {stalled_s:.0f} s; waits for {waits[0]}{more}")
