"""How every prompt group ends. Each group ends exactly once.

admitted ◄─► finished ──► trained                    (◄ if the result is lost with a node)
    │            └──────► dropped (reason)
    └───────────────────► dropped (reason) | pending at the end
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from maspo_dist.types import GroupOutcome, LedgerRow

GroupState = Literal["admitted", "finished"]


class Ledger:
    """The life cycle of groups. Ending a group twice, or ending an unknown group, is a bug and raises."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, GroupState]] = {}
        self._ended: list[LedgerRow] = []
        self.counts: Counter[str] = Counter()
        #: Increases whenever the state of a group changes; the watchdog reads it as progress.
        self.achieved = 0

    def admit(self, group_id: int, prompt_id: str) -> None:
        if group_id in self._open:
            raise ValueError(f"group {group_id} was admitted twice")
        self._open[group_id] = (prompt_id, "admitted")
        self.counts["admitted"] += 1

    def finish(self, group_id: int) -> None:
        """A result was accepted. The caller must have ignored late duplicates."""
        prompt_id, state = self._open[group_id]
        if state != "admitted":
            raise ValueError(f"group {group_id} finished twice")
        self._open[group_id] = (prompt_id, "finished")
        self.achieved += 1

    def reopen(self, group_id: int) -> None:
        """The accepted result is lost; the group waits for another result."""
        prompt_id, _ = self._open[group_id]
        self._open[group_id] = (prompt_id, "admitted")

    def train(self, group_id: int, step: int) -> None:
        self._end(group_id, step, "trained", "")

    def drop(self, group_id: int, step: int, reason: str) -> None:
        self._end(group_id, step, "dropped", reason)

    def close(self, step: int) -> None:
        """Ends the run: groups that are still open become pending."""
        for group_id in list(self._open):
            self._end(group_id, step, "pending", "")

    def take_rows(self) -> list[LedgerRow]:
        """Rows of the groups that ended since the last call."""
        rows, self._ended = self._ended, []
        return rows

    def _end(self, group_id: int, step: int, outcome: GroupOutcome, reason: str) -> None:
        prompt_id, _ = self._open.pop(group_id)
        self.counts[outcome] += 1
        self.achieved += 1
        self._ended.append(LedgerRow(group_id=group_id, prompt_id=prompt_id, step=step, outcome=outcome, reason=reason))
