"""Scores of sampled responses: avg@k, pass@k, majority@k, and how far a score can be trusted.

P problems with n responses each; every estimate for k ≤ n uses all n, by counting the subsets of k.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]


def avg_at_k(correct: BoolArray) -> float:
    """Share of right responses, of `correct` bool[P, k]; every problem weighs the same."""
    _require_table(correct)
    return float(correct.mean())


def pass_at_k(correct: BoolArray, k: int) -> float:
    """Probability that k of a problem's n responses, drawn without replacement, hold a right one.

    Mean over problems of 1 − C(n−c, k) / C(n, k), c of the n being right: unbiased for any k ≤ n.
    `correct` bool[P, n]. Raises ValueError unless 1 ≤ k ≤ n.
    """
    _require_table(correct)
    samples = correct.shape[1]
    _require_k(k, samples)
    wrong = samples - correct.sum(axis=1)
    return float(np.mean([1.0 - comb(int(count), k) / comb(samples, k) for count in wrong]))


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Probability that the commonest answer among k of a problem's n responses is right.

    Right responses vote as one, wrong ones by their answer's text; a response without an answer
    (None) does not vote. Among equally common answers each is as likely to be taken. Exact over all
    subsets of k. Raises ValueError unless 1 ≤ k ≤ n and both sequences have n entries.
    """
    samples = len(answers)
    if len(correct) != samples:
        raise ValueError(f"{samples} answers, but {len(correct)} verdicts")
    _require_k(k, samples)
    right = sum(correct)
    silent = sum(answer is None and not good for answer, good in zip(answers, correct, strict=True))
    rivals = Counter(answer for answer, good in zip(answers, correct, strict=True) if answer is not None and not good)
    won = 0.0
    for votes in range(1, min(right, k) + 1):
        ways = _rival_subsets(list(rivals.values()), silent, k - votes, votes)
        won += comb(right, votes) * sum(count / (ties + 1) for ties, count in enumerate(ways))
    return won / comb(samples, k)


def bootstrap_interval(
    scores: NDArray[np.float64], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `scores` f64[P], problems drawn with replacement.

    The same seed gives the same interval. Raises ValueError for no scores or a confidence outside (0, 1).
    """
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError("scores must be f64[P] with P ≥ 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence:g}")
    rng = np.random.default_rng(seed)
    means = np.array([scores[rng.integers(scores.size, size=scores.size)].mean() for _ in range(resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _rival_subsets(rivals: Sequence[int], silent: int, size: int, most: int) -> list[int]:
    """Number of subsets of `size` responses without a right one, by how many rivals reach `most` votes.

    `rivals` holds each wrong answer's count. Subsets in which a rival passes `most` are left out.
    """
    # ways[used][ties]: subsets of `used` responses of the rivals so far.
    ways = [[0] * (len(rivals) + 1) for _ in range(size + 1)]
    for taken in range(min(silent, size) + 1):
        ways[taken][0] = comb(silent, taken)
    for count in rivals:
        added = [[0] * (len(rivals) + 1) for _ in range(size + 1)]
        for used, by_ties in enumerate(ways):
            for ties, number in enumerate(by_ties):
                if number == 0:
                    continue
                for votes in range(min(count, most, size - used) + 1):
                    added[used + votes][ties + (votes == most)] += number * comb(count, votes)
        ways = added
    return ways[size]


def _require_table(correct: BoolArray) -> None:
    if correct.ndim != 2 or correct.size == 0:
        raise ValueError(f"correct must be bool[P, n] with P, n ≥ 1, got shape {correct.shape}")


def _require_k(k: int, samples: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k must be between 1 and the {samples} responses of a problem, got {k}")
