"""The age bound in slots; every group ends exactly once."""

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.flow.admission import BatchOrder, Waiting, open_slots, select_batch
from maspo_dist.flow.ledger import Ledger


def test_generation_runs_ahead_by_exactly_the_allowed_versions() -> None:
    assert open_slots(0, 4, 0, None) == 4
    assert open_slots(4, 4, 0, None) == 0
    assert open_slots(4, 4, 3, None) == 12


def test_over_sampling_lowers_the_bound_and_never_raises_it() -> None:
    assert open_slots(0, 4, 1, 1.25) == 5
    assert open_slots(0, 4, 1, 9.0) == 8


@dataclass(frozen=True)
class FakeGroup:
    """A `Candidate`."""

    group_id: int
    born: int
    finished: bool
    takes_slot: bool


def candidates(text: str, born: int = 0) -> list[FakeGroup]:
    """f finished, w waiting, r refilled: finished and without a slot."""
    return [FakeGroup(i, born, state in "fr", state != "r") for i, state in enumerate(text)]


def choose(group: list[FakeGroup], version: int, age: int, order: BatchOrder) -> list[int] | Waiting:
    return select_batch(group, version, groups_per_step=2, max_policy_age=age, order=order)


def test_in_order_of_admission_a_batch_waits_for_its_youngest_unfinished_group() -> None:
    assert choose(candidates("fwff"), 0, 1, "admission") == Waiting(1)
    assert choose(candidates("wwff"), 0, 1, "admission") == Waiting(1)
    assert choose(candidates("ffww"), 0, 1, "admission") == [0, 1]
    assert choose(candidates("frf"), 0, 1, "admission") == [0, 1, 2]
    assert choose(candidates("fr"), 0, 1, "admission") == Waiting(None)


def test_in_order_of_completion_a_batch_waits_for_groups_that_are_due() -> None:
    assert choose(candidates("wwff"), 0, 1, "completion") == [2, 3]
    assert choose(candidates("wwff"), 1, 1, "completion") == Waiting(None)
    assert choose(candidates("ffr"), 0, 1, "completion") == [0, 1, 2]
    assert choose(candidates("fw"), 0, 1, "completion") == Waiting(None)


@given(
    age=st.integers(0, 3),
    per_step=st.integers(1, 4),
    order=st.sampled_from(["admission", "completion"]),
    finishing=st.randoms(use_true_random=False),
)
def test_whatever_group_finishes_first_no_group_is_trained_too_old_and_every_batch_fills(
    age: int, per_step: int, order: BatchOrder, finishing: random.Random
) -> None:
    waiting: list[FakeGroup] = []
    admitted = 0
    for version in range(6):
        for _ in range(open_slots(len(waiting), per_step, age, None)):
            waiting.append(FakeGroup(admitted, version, False, True))
            admitted += 1
        while isinstance(
            batch := select_batch(waiting, version, groups_per_step=per_step, max_policy_age=age, order=order), Waiting
        ):
            left = [i for i, candidate in enumerate(waiting) if not candidate.finished]
            assert left, "a batch is waited for though all is finished"
            done = finishing.choice(left)
            waiting[done] = replace(waiting[done], finished=True)
        assert len(batch) == per_step
        assert all(version - candidate.born <= age for candidate in waiting if candidate.group_id in batch)
        waiting = [candidate for candidate in waiting if candidate.group_id not in batch]


def test_every_group_ends_exactly_once_and_the_counts_add_up() -> None:
    ledger = Ledger()
    for group_id in range(4):
        ledger.admit(group_id, f"p{group_id}")
    ledger.finish(0)
    ledger.train(0, step=1)
    ledger.finish(1)
    ledger.drop(1, step=1, reason="zero_variance")
    ledger.close(step=2)
    rows = {row.group_id: (row.prompt_id, row.outcome, row.reason) for row in ledger.take_rows()}
    assert rows == {
        0: ("p0", "trained", ""),
        1: ("p1", "dropped", "zero_variance"),
        2: ("p2", "pending", ""),
        3: ("p3", "pending", ""),
    }
    counts = ledger.counts
    assert counts["admitted"] == counts["trained"] + counts["dropped"] + counts["pending"] == 4
    assert ledger.take_rows() == []


def test_a_second_end_or_a_second_result_is_an_error() -> None:
    ledger = Ledger()
    ledger.admit(0, "p")
    with pytest.raises(ValueError, match="admitted twice"):
        ledger.admit(0, "p")
    ledger.finish(0)
    with pytest.raises(ValueError, match="finished twice"):
        ledger.finish(0)
    ledger.train(0, step=1)
    with pytest.raises(KeyError):
        ledger.drop(0, step=1, reason="late")
