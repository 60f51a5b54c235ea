"""Decisions after a failure, without a cluster."""

from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.flow.failures import RestartBudget, after_loss, after_stall


def fates(max_attempts: int) -> list[str]:
    """What becomes of a group whose every worker dies."""
    said: list[str] = []
    while not said or said[-1] != "set_aside":
        said.append(after_loss(len(said) + 1, bool(said) and said[-1] == "retry_alone", max_attempts))
    return said


def test_a_group_is_set_aside_after_its_last_attempt_which_runs_alone() -> None:
    assert fates(3) == ["retry", "retry_alone", "set_aside"]
    assert fates(2) == ["retry_alone", "set_aside"]
    assert fates(1) == ["set_aside"]


@given(st.integers(2, 20))
def test_only_a_group_that_was_alone_on_its_worker_is_set_aside(max_attempts: int) -> None:
    said = fates(max_attempts)
    assert len(said) == max_attempts
    assert said[-2] == "retry_alone"


def test_pauses_double_up_to_their_bound_and_the_budget_ends() -> None:
    budget = RestartBudget(limit=4, window_s=100, backoff_s=1, backoff_max_s=3)
    assert [budget.lost(now) for now in range(5)] == [1, 2, 3, 3, None]


def test_losses_outside_the_window_are_forgotten() -> None:
    budget = RestartBudget(limit=1, window_s=10, backoff_s=1, backoff_max_s=8)
    assert budget.lost(0) == 1
    assert budget.lost(5) is None
    assert budget.lost(20) == 1


def test_a_stall_names_the_oldest_wait_and_does_as_configured() -> None:
    verdict = after_stall(("rollout worker 1: group 7 (prompt p7)", "verifier: a verdict"), 900, "restart")
    assert verdict.action == "restart"
    assert verdict.message == "no progress for 900 s; waits for rollout worker 1: group 7 (prompt p7) (and 1 more)"


def test_a_stall_without_an_open_wait_ends_the_run() -> None:
    assert after_stall((), 900, "restart").action == "fail"
    assert after_stall((), 900, "report").action == "report"


def test_a_step_is_not_restarted_more_often_than_the_limit_whatever_the_time_between_losses() -> None:
    budget = RestartBudget(limit=2, window_s=10, backoff_s=1, backoff_max_s=8)
    assert [budget.lost(1000 * number, step=7) for number in range(3)] == [1, 1, None]
    budget = RestartBudget(limit=2, window_s=10, backoff_s=1, backoff_max_s=8)
    assert [budget.lost(1000 * number, step=number % 3) for number in range(6)] == [1] * 6
