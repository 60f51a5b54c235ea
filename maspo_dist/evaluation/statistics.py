"""Scores of sampled responses: avg@k, pass@k, majority@k, and how far a score can be trusted.

P problems with n responses each; every estimate for k ≤ n uses all n, by counting the subsets of k.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Estimates = NDArray[np.float64]

#: Resamples drawn in one go: bounds the memory of a bootstrap over many problems.
_CHUNK_RESAMPLES = 100


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


def pass_estimates(correct: BoolArray) -> Estimates:
    """f64[P, n]: each problem's pass@k in column k − 1, see `pass_at_k`; `correct` bool[P, n]."""
    _require_table(correct)
    samples = correct.shape[1]
    return np.asarray([_pass_of_one(samples, int(right)) for right in correct.sum(axis=1)])


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Probability that the commonest answer among k of a problem's n responses is right.

    Right responses vote as one, wrong ones by their answer's text; a response without an answer
    (None) does not vote. Among equally common answers each is as likely to be taken. Exact over all
    subsets of k. Raises ValueError unless 1 ≤ k ≤ n and both sequences have n entries.
    """
    _require_k(k, len(answers))
    return float(majority_estimates(answers, correct)[k - 1])


def majority_estimates(answers: Sequence[str | None], correct: Sequence[bool]) -> Estimates:
    """f64[n]: one problem's majority@k at k − 1, see `majority_at_k`."""
    samples = len(answers)
    if len(correct) != samples:
        raise ValueError(f"{samples} answers, but {len(correct)} verdicts")
    votes = [(answer, good) for answer, good in zip(answers, correct, strict=True)]
    silent = sum(answer is None and not good for answer, good in votes)
    rivals = Counter(answer for answer, good in votes if answer is not None and not good)
    return np.asarray(_majority_of_one(sum(correct), silent, tuple(sorted(rivals.values()))))


def bootstrap_interval(
    scores: Estimates, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `scores` f64[P], problems drawn with replacement.

    The same seed gives the same interval. A point where all scores are equal, however few they are.
    Raises ValueError for no scores or a confidence outside (0, 1).
    """
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError("scores must be f64[P] with P ≥ 1")
    [(low, high)] = bootstrap_intervals(scores[:, None], confidence, resamples, seed)
    return float(low), float(high)


def bootstrap_intervals(scores: Estimates, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimates:
    """f64[K, 2]: `bootstrap_interval` of each column of `scores` f64[P, K], from the same resamples."""
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError("scores must be f64[P, K] with P, K ≥ 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence:g}")
    problems = scores.shape[0]
    rng = np.random.default_rng(seed)
    uniform = np.full(problems, 1 / problems)
    means = []
    for start in range(0, resamples, _CHUNK_RESAMPLES):
        # How often each problem is drawn says all there is to say of a resample.
        draws = rng.multinomial(problems, uniform, size=min(_CHUNK_RESAMPLES, resamples - start))
        means.append(draws @ scores / problems)
    tail = (1 - confidence) / 2
    interval: Estimates = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T
    # Rounding of the weighted sums must not carry a bound past every score.
    return np.clip(interval, scores.min(axis=0)[:, None], scores.max(axis=0)[:, None])


@lru_cache(maxsize=4096)
def _pass_of_one(samples: int, right: int) -> tuple[float, ...]:
    return tuple(1.0 - comb(samples - right, k) / comb(samples, k) for k in range(1, samples + 1))


@lru_cache(maxsize=4096)
def _majority_of_one(right: int, silent: int, rivals: tuple[int, ...]) -> tuple[float, ...]:
    """Majority@k for k = 1 to n of a problem with these counts; `rivals` holds each wrong answer's."""
    others = silent + sum(rivals)
    samples = right + others
    won = [0.0] * samples
    for votes in range(1, right + 1):
        for size, by_ties in enumerate(_rival_subsets(rivals, silent, votes)):
            ways = sum(number / (ties + 1) for ties, number in enumerate(by_ties))
            k = votes + size
            won[k - 1] += comb(right, votes) * ways / comb(samples, k)
    return tuple(won)


def _rival_subsets(rivals: Sequence[int], silent: int, most: int) -> list[list[int]]:
    """[size][ties]: subsets of `size` responses without a right one in which `ties` rivals reach `most` votes.

    Subsets in which a rival passes `most` are left out.
    """
    ways = [[comb(silent, taken)] for taken in range(silent + 1)]
    for count in rivals:
        ties = len(ways[0]) + (count >= most)
        added = [[0] * ties for _ in range(len(ways) + count)]
        for used, by_ties in enumerate(ways):
            for tied, number in enumerate(by_ties):
                if number:
                    for votes in range(min(count, most) + 1):
                        added[used + votes][tied + (votes == most)] += number * comb(count, votes)
        ways = added
    return ways


def _require_table(correct: BoolArray) -> None:
    if correct.ndim != 2 or correct.size == 0:
        raise ValueError(f"correct must be bool[P, n] with P, n ≥ 1, got shape {correct.shape}")


def _require_k(k: int, samples: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k must be between 1 and the {samples} responses of a problem, got {k}")
