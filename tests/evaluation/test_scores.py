"""Scores against brute force over every subset."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.evaluation import (
    avg_at_k,
    bootstrap_interval,
    bootstrap_intervals,
    majority_at_k,
    majority_estimates,
    pass_at_k,
    pass_estimates,
)

samples = st.lists(st.sampled_from(["right", "a", "b", "c", None]), min_size=1, max_size=8)


def majority_by_enumeration(answers: list[str | None], k: int) -> float:
    subsets = list(combinations(answers, k))
    won = 0.0
    for subset in subsets:
        votes = Counter(answer for answer in subset if answer is not None)
        first = [answer for answer, count in votes.items() if count == max(votes.values())]
        won += first.count("right") / len(first) if first else 0.0
    return won / len(subsets)


@given(samples, st.data())
def test_majority_is_the_mean_over_all_subsets(answers: list[str | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(answers)))
    correct = [answer == "right" for answer in answers]
    assert majority_at_k(answers, correct, k) == pytest.approx(majority_by_enumeration(answers, k))


@given(samples)
def test_majority_for_all_k_at_once_is_that_of_each_k(answers: list[str | None]) -> None:
    correct = [answer == "right" for answer in answers]
    by_k = [majority_by_enumeration(answers, k) for k in range(1, len(answers) + 1)]
    assert majority_estimates(answers, correct) == pytest.approx(by_k)


def test_four_samples_counted_by_hand() -> None:
    """Right, right, and two different wrong answers; then one right of four, the others agreeing."""
    correct = np.array([[True, True, False, False], [True, False, False, False]])
    assert avg_at_k(correct) == 3 / 8
    # Of the 6 pairs: 5 hold a right response, then 3. Of the 4 triples: all, then 3.
    assert pass_estimates(correct).tolist() == [[1 / 2, 5 / 6, 1, 1], [1 / 4, 3 / 6, 3 / 4, 1]]
    # Pairs: right twice (1), right beside a wrong one at even chances (4 · ½), both wrong (0), of 6.
    # Triples: two rights win (2), one right among three different (2 · ⅓), of 4.
    assert majority_estimates(["7", "7", "1", "2"], [True, True, False, False]) == pytest.approx(
        [1 / 2, 3 / 6, (2 + 2 / 3) / 4, 1]
    )
    # Pairs: 3 hold the right one at even chances; triples: two of the same wrong answer win; all: likewise.
    assert majority_estimates(["7", "1", "1", "1"], [True, False, False, False]) == pytest.approx([1 / 4, 1 / 4, 0, 0])


def test_right_answers_written_differently_vote_together() -> None:
    answers = ["1/2", "0.5", "3", "3", "\\frac12"]
    assert majority_at_k(answers, [True, True, False, False, True], 5) == 1.0


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 5))
def test_pass_is_the_share_of_subsets_with_a_right_response(table: list[list[bool]], k: int) -> None:
    by_problem = [np.mean([any(subset) for subset in combinations(row, k)]) for row in table]
    assert pass_at_k(np.array(table), k) == pytest.approx(float(np.mean(by_problem)))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4))
def test_pass_for_all_k_at_once_is_that_of_each_k(table: list[list[bool]]) -> None:
    estimates = pass_estimates(np.array(table))
    assert estimates.mean(axis=0) == pytest.approx([pass_at_k(np.array(table), k) for k in (1, 2, 3, 4)])


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_pass_at_1_is_the_average(table: list[list[bool]]) -> None:
    assert pass_at_k(np.array(table), 1) == pytest.approx(avg_at_k(np.array(table)))


def test_pass_at_k_holds_for_many_samples() -> None:
    """Factorials of thousands of samples fit no float; the ratio must."""
    correct = np.zeros((1, 2000), dtype=bool)
    correct[0, 0] = True
    assert pass_at_k(correct, 1000) == pytest.approx(0.5)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        scores = (rng.random(100) < 0.4).astype(np.float64)
        low, high = bootstrap_interval(scores, confidence=0.9, resamples=300, seed=trial)
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
        majority = [
            majority_estimates([str(place) for place in range(samples)], row)[k - 1] for row in correct.tolist()
        ]
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


def test_intervals_of_columns_are_those_of_each_alone() -> None:
    scores = np.random.default_rng(1).random((20, 3))
    together = bootstrap_intervals(scores, seed=2)
    for column in range(3):
        assert tuple(together[column]) == pytest.approx(bootstrap_interval(scores[:, column], seed=2))


def test_bootstrap_repeats_with_its_seed_and_is_a_point_where_all_agree() -> None:
    scores = np.array([0.0, 1.0, 1.0, 0.5])
    assert bootstrap_interval(scores, seed=4) == bootstrap_interval(scores, seed=4)
    assert bootstrap_interval(np.full(7, 0.25)) == (0.25, 0.25)


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_responses_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the 3 responses"):
        pass_at_k(np.ones((2, 3), dtype=bool), k)
    with pytest.raises(ValueError, match="between 1 and the 3 responses"):
        majority_at_k(["1", "2", "3"], [True, False, False], k)


def test_misshapen_input_is_refused() -> None:
    with pytest.raises(ValueError, match="bool\\[P, n\\]"):
        avg_at_k(np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="2 answers, but 1"):
        majority_at_k(["1", "2"], [True], 1)
    with pytest.raises(ValueError, match="P ≥ 1"):
        bootstrap_interval(np.array([]))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(np.array([1.0]), confidence=1.0)
