"""Scores against brute force over every subset."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.evaluation import avg_at_k, bootstrap_interval, majority_at_k, pass_at_k

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


def test_right_answers_written_differently_vote_together() -> None:
    answers = ["1/2", "0.5", "3", "3", "\\frac12"]
    assert majority_at_k(answers, [True, True, False, False, True], 5) == 1.0


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 5))
def test_pass_is_the_share_of_subsets_with_a_right_response(table: list[list[bool]], k: int) -> None:
    by_problem = [np.mean([any(subset) for subset in combinations(row, k)]) for row in table]
    assert pass_at_k(np.array(table), k) == pytest.approx(float(np.mean(by_problem)))


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
