"""Scores against brute force over every subset."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.evaluation.statistics import (
    avg_at_k,
    bootstrap_intervals,
    majority_at_n,
    pass_at_k,
    pass_estimates,
)

samples = st.lists(st.sampled_from(["right", "a", "b", "c", None]), min_size=1, max_size=8)


@given(samples)
def test_majority_is_the_chance_that_a_most_frequent_answer_is_right(answers: list[str | None]) -> None:
    votes = Counter(answer for answer in answers if answer is not None)
    first = [answer for answer, count in votes.items() if count == max(votes.values())]
    expected = first.count("right") / len(first) if first else 0.0
    assert majority_at_n(answers, [answer == "right" for answer in answers]) == pytest.approx(expected)


def test_four_samples_counted_by_hand() -> None:
    """Right, right, and two different wrong answers; then one right of four, the others agreeing."""
    correct = np.array([[True, True, False, False], [True, False, False, False]])
    assert avg_at_k(correct) == 3 / 8
    # Of the 6 pairs: 5 hold a right response, then 3. Of the 4 triples: all, then 3.
    assert pass_estimates(correct).tolist() == [[1 / 2, 5 / 6, 1, 1], [1 / 4, 3 / 6, 3 / 4, 1]]
    # Two rights against one of each wrong answer; then one right against three of the same wrong answer.
    assert majority_at_n(["7", "7", "1", "2"], [True, True, False, False]) == 1
    assert majority_at_n(["7", "1", "1", "1"], [True, False, False, False]) == 0
    # Two rights against two of the same wrong answer; one right among four different answers.
    assert majority_at_n(["7", "7", "1", "1"], [True, True, False, False]) == 1 / 2
    assert majority_at_n(["7", "1", "2", "3"], [True, False, False, False]) == 1 / 4


def test_right_answers_written_differently_vote_together() -> None:
    answers = ["1/2", "0.5", "3", "3", "\\frac12"]
    assert majority_at_n(answers, [True, True, False, False, True]) == 1.0


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 5))
def test_pass_is_the_share_of_subsets_with_a_right_response(table: list[list[bool]], k: int) -> None:
    by_problem = [np.mean([any(subset) for subset in combinations(row, k)]) for row in table]
    assert pass_at_k(np.array(table), k) == pytest.approx(float(np.mean(by_problem)))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4))
def test_pass_for_all_k_at_once_equals_pass_of_each_k(table: list[list[bool]]) -> None:
    estimates = pass_estimates(np.array(table))
    assert estimates.mean(axis=0) == pytest.approx([pass_at_k(np.array(table), k) for k in (1, 2, 3, 4)])


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_pass_at_1_is_the_average(table: list[list[bool]]) -> None:
    assert pass_at_k(np.array(table), 1) == pytest.approx(avg_at_k(np.array(table)))


def test_pass_at_k_holds_for_many_samples() -> None:
    """Factorials of thousands of samples exceed a float; their ratio does not."""
    correct = np.zeros((1, 2000), dtype=bool)
    correct[0, 0] = True
    assert pass_at_k(correct, 1000) == pytest.approx(0.5)


def test_bootstrap_intervals_cover_the_mean_as_often_as_their_confidence() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        scores = (rng.random(100) < 0.4).astype(np.float64)
        [(low, high)] = bootstrap_intervals(scores[:, None], confidence=0.9, resamples=300, seed=trial)
        covered += low <= 0.4 <= high
    assert 165 <= covered <= 195


@pytest.mark.parametrize(("problems", "lowest"), [(30, 0.88), (100, 0.91)])
def test_intervals_of_avg_pass_and_majority_cover_the_truth(problems: int, lowest: float) -> None:
    """A problem is solved with probability 0.2 or 0.7, as likely; wrong answers differ. 95 % is asked for:
    the percentile bootstrap falls a little short of it at 30 problems.
    """
    rng = np.random.default_rng(5)
    samples, k, trials = 8, 3, 300
    truths = np.array([0.45, 1 - (0.8**k + 0.3**k) / 2, (true_majority(0.2) + true_majority(0.7)) / 2])
    covered = np.zeros(3)
    for trial in range(trials):
        chance = rng.choice([0.2, 0.7], size=problems)
        correct = rng.random((problems, samples)) < chance[:, None]
        majority = [majority_at_n([str(place) for place in range(k)], row[:k]) for row in correct.tolist()]
        scores = np.stack([correct.mean(axis=1), pass_estimates(correct)[:, k - 1], majority], axis=1)
        intervals = bootstrap_intervals(scores, resamples=400, seed=trial)
        covered += (intervals[:, 0] <= truths) & (truths <= intervals[:, 1])
    shares = covered / trials
    assert (shares >= lowest).all(), shares
    assert (shares <= 0.99).all(), shares


def true_majority(chance: float) -> float:
    """Majority@3 where each response is right with `chance` and wrong answers all differ."""
    one, two, three = 3 * chance * (1 - chance) ** 2, 3 * chance**2 * (1 - chance), chance**3
    return one / 3 + two + three


def test_intervals_of_several_columns_equal_those_of_single_columns() -> None:
    scores = np.random.default_rng(1).random((20, 3))
    together = bootstrap_intervals(scores, seed=2)
    for column in range(3):
        assert tuple(together[column]) == pytest.approx(tuple(bootstrap_intervals(scores[:, [column]], seed=2)[0]))


def test_bootstrap_repeats_with_its_seed_and_is_a_point_for_equal_scores() -> None:
    scores = np.array([[0.0], [1.0], [1.0], [0.5]])
    assert bootstrap_intervals(scores, seed=4).tolist() == bootstrap_intervals(scores, seed=4).tolist()
    assert bootstrap_intervals(np.full((7, 1), 0.25)).tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize("k", [0, 4])
def test_a_k_below_one_or_above_the_number_of_responses_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the 3 responses"):
        pass_at_k(np.ones((2, 3), dtype=bool), k)


def test_misshapen_input_is_refused() -> None:
    with pytest.raises(ValueError, match="bool\\[P, n\\]"):
        avg_at_k(np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="2 answers, but 1"):
        majority_at_n(["1", "2"], [True])
    with pytest.raises(ValueError, match="P, K ≥ 1"):
        bootstrap_intervals(np.empty((0, 1)))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_intervals(np.array([[1.0]]), confidence=1.0)
