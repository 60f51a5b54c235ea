"""How far generation may run ahead of training, and which groups make the next batch.

A group born under policy version b may be trained up to version b + A (A = max_policy_age). At version b + A it is
*due*. Every batch takes P = groups_per_step slots, and at most (1 + A) · P slots are open at any time, so the groups
due at any version always fit into the batches until then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

BatchOrder = Literal["admission", "completion"]


class Candidate(Protocol):
    """An admitted group that no batch has taken. `born` is the policy version at its dispatch.

    A group whose slot was refilled takes no slot: it joins the next batch.
    """

    @property
    def group_id(self) -> int: ...

    @property
    def born(self) -> int: ...

    @property
    def finished(self) -> bool: ...

    @property
    def takes_slot(self) -> bool: ...


def open_slots(outstanding_slots: int, groups_per_step: int, max_policy_age: int, over_sampling: float | None) -> int:
    """How many more groups may be admitted when `outstanding_slots` are in flight or finished."""
    ahead = float(1 + max_policy_age)
    if over_sampling is not None:
        ahead = min(ahead, over_sampling)
    return max(0, int(ahead * groups_per_step) - outstanding_slots)


@dataclass(frozen=True, slots=True)
class Waiting:
    """No batch is ready until `group_id` has finished; None: until any group has."""

    group_id: int | None


def select_batch(
    candidates: Iterable[Candidate], version: int, *, groups_per_step: int, max_policy_age: int, order: BatchOrder
) -> list[int] | Waiting:
    """The group ids of the batch to train on policy `version`, or what it waits for.

    `candidates` are in the order of admission. Order "admission" takes the first P slots, even if later groups finished
    earlier, so that short responses are not preferred. Order "completion" takes the oldest P finished slots, as soon as
    the remaining groups fit into later batches before they are too old.
    """
    if order == "admission":
        return _first_admitted(candidates, groups_per_step)
    candidates = list(candidates)
    finished = sorted((c for c in candidates if c.finished and c.takes_slot), key=lambda c: (c.born, c.group_id))
    taken = finished[:groups_per_step]
    if len(taken) < groups_per_step:
        return Waiting(None)
    chosen = {candidate.group_id for candidate in taken}
    left = [c.born + max_policy_age - version for c in candidates if c.takes_slot and c.group_id not in chosen]
    for horizon in range(max_policy_age + 1):
        if sum(due <= horizon for due in left) > groups_per_step * horizon:
            return Waiting(None)
    extra = {c.group_id for c in candidates if c.finished and not c.takes_slot}
    return [c.group_id for c in candidates if c.group_id in chosen | extra]


def _first_admitted(candidates: Iterable[Candidate], groups_per_step: int) -> list[int] | Waiting:
    batch: list[int] = []
    slots, unfinished = 0, None
    for candidate in candidates:
        batch.append(candidate.group_id)
        slots += candidate.takes_slot
        if not candidate.finished:
            unfinished = candidate.group_id
        if slots == groups_per_step:
            return batch if unfinished is None else Waiting(unfinished)
    return Waiting(None)
