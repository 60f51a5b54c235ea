"""What to do when something fails. Decisions only: no I/O and no clock, so tests need no cluster.

a worker died with a group in flight    → after_loss: sample the group again, at last alone, or set it aside
a worker or the learner group was lost  → RestartBudget: restart after a pause, or give up
the run makes no progress               → after_stall: end the oldest wait, end the run, or only report it
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

GroupFate = Literal["retry", "retry_alone", "set_aside"]
StallAction = Literal["restart", "fail", "report"]


def after_loss(losses: int, was_alone: bool, max_attempts: int) -> GroupFate:
    """What to do with a group that was in flight on a worker that died. `losses` counts such deaths for this group.

    All groups of a worker are lost with it, so a death proves little about each of them. The last of `max_attempts`
    therefore runs with no other group on the worker: if the worker dies again, this prompt killed it. If a whole
    node died, the deaths of its workers are not counted in `losses`.
    """
    if was_alone or losses >= max_attempts:
        return "set_aside"
    return "retry_alone" if losses == max_attempts - 1 else "retry"


@dataclass(slots=True)
class RestartBudget:
    """At most `limit` restarts in any `window_s`, after pauses that double: backoff_s, 2·backoff_s, … backoff_max_s.

    At most `limit` restarts at one step, too, whatever the time between them.
    """

    limit: int
    window_s: float
    backoff_s: float
    backoff_max_s: float
    _losses: deque[float] = field(default_factory=deque)
    _at_step: Counter[int] = field(default_factory=Counter)

    def lost(self, now_s: float, step: int | None = None) -> float | None:
        """Notes a loss, at `step` if it was in one; returns the pause before the restart, or None when the budget is
        used up.
        """
        while self._losses and now_s - self._losses[0] > self.window_s:
            self._losses.popleft()
        self._losses.append(now_s)
        if step is not None:
            self._at_step[step] += 1
        if len(self._losses) > self.limit or (step is not None and self._at_step[step] > self.limit):
            return None
        # The exponent is bounded, so that a large limit cannot overflow.
        return min(self.backoff_max_s, self.backoff_s * 2.0 ** min(len(self._losses) - 1, 32))

    def forgive(self) -> None:
        """Removes the last loss, because a prompt caused it."""
        if self._losses:
            self._losses.pop()


@dataclass(frozen=True, slots=True, kw_only=True)
class StallVerdict:
    """What the watchdog does about a stall, and the message of its event."""

    action: StallAction
    message: str


def after_stall(waits: tuple[str, ...], stalled_s: float, configured: StallAction) -> StallVerdict:
    """Names the first of `waits`, the oldest. Without an open wait nothing can restart, so the run ends."""
    if not waits:
        return StallVerdict(
            action="report" if configured == "report" else "fail",
            message=f"no progress for {stalled_s:.0f} s, and there is no open wait",
        )
    more = f" (and {len(waits) - 1} more)" if len(waits) > 1 else ""
    return StallVerdict(action=configured, message=f"no progress for {stalled_s:.0f} s; waits for {waits[0]}{more}")
