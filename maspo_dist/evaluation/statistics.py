"""Scores of sampled responses: avg@k, pass@k, majority@n, and their confidence intervals.

P problems have n responses each. pass@k for k ≤ n uses all n responses, by counting the subsets of k.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Estimates = NDArray[np.float64]

#: Resamples per draw, which bounds the memory of a bootstrap over many problems.
_CHUNK_RESAMPLES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimate and its confidence interval, whose bounds are infinite if it is unknown."""

    value: float
    low: float
    high: float


def avg_at_k(correct: BoolArray) -> float:
    """Share of right responses, of `correct` bool[P, k]; every problem weighs the same."""
    _samples(correct)
    return float(correct.mean())


def pass_at_k(correct: BoolArray, k: int) -> float:
    """Probability of a right response among k of a problem's n responses, drawn without replacement.

    Mean over problems of 1 − C(n−c, k) / C(n, k), c of the n being right: unbiased for any k ≤ n.
    `correct` bool[P, n]. Raises ValueError unless 1 ≤ k ≤ n.
    """
    samples = _samples(correct)
    if not 1 <= k <= samples:
        raise ValueError(f"k must be between 1 and the {samples} responses of a problem, got {k}")
    return float(np.mean([_pass(samples, int(right), k) for right in correct.sum(axis=1)]))


def pass_estimates(correct: BoolArray) -> Estimates:
    """f64[P, n]: each problem's pass@k in column k − 1, see `pass_at_k`; `correct` bool[P, n]."""
    samples = _samples(correct)
    ks = range(1, samples + 1)
    return np.asarray([[_pass(samples, int(right), k) for k in ks] for right in correct.sum(axis=1)])


def majority_at_n(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Probability that the most frequent answer among a problem's n responses is right.

    All right responses count as one answer, a wrong one counts by its text; a response without an answer (None)
    does not count. Equally frequent answers are equally likely to be taken. Raises ValueError unless both sequences
    have n entries.
    """
    if len(correct) != len(answers):
        raise ValueError(f"{len(answers)} answers, but {len(correct)} verdicts")
    right = sum(correct)
    wrong = Counter(answer for answer, good in zip(answers, correct, strict=True) if answer is not None and not good)
    if right == 0 or right < max(wrong.values(), default=0):
        return 0.0
    return 1 / (1 + list(wrong.values()).count(right))


def bootstrap_intervals(scores: Estimates, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimates:
    """f64[K, 2]: percentile bootstrap interval of the mean of each column of `scores` f64[P, K].

    Problems are drawn with replacement, the same ones for all columns; the same seed gives the same intervals. An
    interval is a point where all scores are equal. Raises ValueError for no scores or a confidence outside (0, 1).
    """
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError("scores must be f64[P, K] with P, K ≥ 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence:g}")
    problems = scores.shape[0]
    rng = np.random.default_rng(seed)
    uniform = np.full(problems, 1 / problems)
    means = []
    for start in range(0, resamples, _CHUNK_RESAMPLES):
        # A resample is fully described by how often it draws each problem.
        draws = rng.multinomial(problems, uniform, size=min(_CHUNK_RESAMPLES, resamples - start))
        means.append(draws @ scores / problems)
    tail = (1 - confidence) / 2
    interval: Estimates = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T
    # Rounding of the weighted sums must not put a bound outside of all scores.
    return np.clip(interval, scores.min(axis=0)[:, None], scores.max(axis=0)[:, None])


@cache
def _pass(samples: int, right: int, k: int) -> float:
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def _samples(correct: BoolArray) -> int:
    """Responses per problem. Raises ValueError for a table of another shape."""
    if correct.ndim != 2 or correct.size == 0:
        raise ValueError(f"correct must be bool[P, n] with P, n ≥ 1, got shape {correct.shape}")
    return int(correct.shape[1])
