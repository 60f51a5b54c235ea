"""How plain classes become Ray actors."""

from __future__ import annotations

import os
from typing import Any

import ray

from actors.ray.health import CONCURRENCY_GROUPS

#: Groups that one worker or the verifier may have in flight; admission bounds what really is.
CONCURRENT_CALLS = 10_000


def actor_class(plain: type) -> Any:
    """As an actor whose health calls have a concurrency group of their own; see `actors.ray.health`."""
    return ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(plain)


def share_of_cores(processes: int) -> int:
    """CPU threads of one of `processes`: learners and engines take turns, so each side may have all cores."""
    return max(1, (os.cpu_count() or 1) // processes)
