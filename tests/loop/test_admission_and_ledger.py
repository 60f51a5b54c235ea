"""The age bound as an arithmetic of slots; every group ends once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.flow.admission import Admission
from maspo_dist.flow.ledger import Ledger


def admission(age: int, refills: int = 0) -> Admission:
    return Admission(groups_per_step=4, max_policy_age=age, max_refills_per_step=refills)


@pytest.mark.parametrize("age", [0, 1, 3])
def test_generation_runs_ahead_by_exactly_the_allowed_versions(age: int) -> None:
    state = admission(age)
    for _ in range(state.open_slots()):
        state.admit()
    assert state.admitted == 4 * (1 + age)
    state.consume()
    assert state.open_slots() == 4


def test_admitting_without_a_slot_is_refused() -> None:
    state = admission(0)
    for _ in range(4):
        state.admit()
    with pytest.raises(ValueError, match="age bound"):
        state.admit()


def test_refills_give_slots_back_up_to_their_cap_and_again_next_step() -> None:
    state = admission(0, refills=2)
    for _ in range(4):
        state.admit()
    assert [state.refill() for _ in range(3)] == [True, True, False]
    assert state.open_slots() == 2
    state.consume()
    assert state.refill()


@given(age=st.integers(0, 4), moves=st.lists(st.sampled_from(["admit", "consume", "refill"]), max_size=80))
def test_no_order_of_events_admits_beyond_the_bound(age: int, moves: list[str]) -> None:
    state = admission(age, refills=3)
    for move in moves:
        if move == "admit" and state.open_slots():
            state.admit()
        elif move == "consume":
            state.consume()
        elif move == "refill" and state.admitted > state.refilled:
            state.refill()
        assert state.admitted - state.refilled <= (state.consumed_batches + 1 + age) * 4


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
