"""How far generation may run ahead of training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Admission:
    """Counts slots: one for each group that a batch will hold.

    Batches take groups in the order of admission, `groups_per_step` at a time, so the group in slot k
    is consumed by batch k // groups_per_step. Opening slots only up to the batch `max_policy_age`
    after the current one therefore bounds the age of every token at consumption by construction:

        admitted − refilled ≤ (batches consumed + 1 + max_policy_age) · groups_per_step
    """

    groups_per_step: int
    max_policy_age: int
    max_refills_per_step: int
    admitted: int = 0
    refilled: int = 0
    consumed_batches: int = 0
    refills_this_step: int = 0

    def open_slots(self) -> int:
        """How many more groups may be admitted now."""
        bound = (self.consumed_batches + 1 + self.max_policy_age) * self.groups_per_step
        return max(0, bound - (self.admitted - self.refilled))

    def admit(self) -> None:
        """Takes one slot. Raises ValueError when none is open."""
        if self.open_slots() == 0:
            raise ValueError("no slot is open: the age bound would not hold")
        self.admitted += 1

    def refill(self) -> bool:
        """Gives the slot of a dropped group back, if this step's refills are not used up."""
        if self.refills_this_step >= self.max_refills_per_step:
            return False
        self.refilled += 1
        self.refills_this_step += 1
        return True

    def consume(self) -> None:
        """A batch was taken."""
        self.consumed_batches += 1
        self.refills_this_step = 0
