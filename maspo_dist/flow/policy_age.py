"""The bound on the age of what trains, checked last, just before a group trains."""

from __future__ import annotations

from typing import TypeVar

from maspo_dist.errors import PolicyAgeError
from maspo_dist.types import FinishedGroup

Body = TypeVar("Body")


def require_young(group: FinishedGroup[Body], version: int, bound: int) -> None:
    """Raises PolicyAgeError if a token of `group` is more than `bound` versions older than the learner's `version`."""
    oldest = group.oldest_version
    if version - oldest > bound:
        raise PolicyAgeError(
            f"group {group.group_id} holds tokens of policy version {oldest}, {version - oldest} "
            f"behind the learner's {version}; algorithm.max_policy_age is {bound}"
        )
