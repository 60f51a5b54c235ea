"""Which scored groups train, and why the others do not."""

from __future__ import annotations

from maspo_dist.types import DropReason, ScoredGroup


def drop_reason(group: ScoredGroup, *, drop_zero_variance: bool) -> DropReason | None:
    """Why `group` cannot teach anything, or None if it trains.

    unverifiable   no response has a verdict that counts
    masked         none of the verified responses may train (all truncated and masked, say)
    zero_variance  all advantages are 0: the gradient would be too

    too_old, beyond max_policy_age, is only known when a batch takes the group.
    """
    if not any(verdict.verifiable for verdict in group.report.verdicts):
        return "unverifiable"
    if not group.trainable.any():
        return "masked"
    if drop_zero_variance and not group.advantages.any():
        return "zero_variance"
    return None
