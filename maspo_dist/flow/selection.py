"""Which groups with a result train, and why the others do not."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from maspo_dist.types import DropReason, FinishedGroup, ScoredGroup

B = TypeVar("B")


def drop_reason(group: ScoredGroup, *, drop_zero_variance: bool) -> DropReason | None:
    """Why `group` does not train, or None if it trains.

    unverifiable   no response has a verdict
    masked         every verified response is masked, for example because it is truncated
    zero_variance  all advantages are 0, so the policy's loss has no gradient
    """
    if not any(verdict.verifiable for verdict in group.report.verdicts):
        return "unverifiable"
    if not group.trainable.any():
        return "masked"
    if drop_zero_variance and not group.advantages.any():
        return "zero_variance"
    return None


def drop_too_old(group: FinishedGroup[B], policy_version: int, max_policy_age: int) -> FinishedGroup[B]:
    """The group as taken by a batch for `policy_version`: dropped as too_old if a token is older than the bound."""
    if group.dropped is None and policy_version - group.oldest_version > max_policy_age:
        return replace(group, dropped="too_old")
    return group
