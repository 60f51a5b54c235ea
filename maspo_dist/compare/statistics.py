"""Estimates over seeds: of a variant, and of the difference between two variants.

Most comparisons have few seeds, so that intervals are Student's and the test is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from maspo_dist.evaluation.statistics import Estimate

#: Most pairs of a test, which enumerates 2^20 sums for them.
MAX_PAIRS = 20

#: Sums whose relative difference is smaller than this are equal but for rounding.
_ROUNDING = 1e-9


def mean_over_seeds(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """mean ± t · s / √n, with Student's t of n − 1 degrees of freedom; infinite bounds for one value.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(value=mean, low=-math.inf, high=math.inf)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = student_quantile(confidence, len(values) - 1) * math.sqrt(variance / len(values))
    return Estimate(value=mean, low=mean - half, high=mean + half)


def student_quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| ≤ t) = confidence for Student's T. Raises ValueError outside 0 < confidence < 1, degrees ≥ 1."""
    if not 0 < confidence < 1 or degrees < 1:
        raise ValueError(f"confidence must lie between 0 and 1 and degrees be ≥ 1, got {confidence:g} and {degrees}")
    low, high = 0.0, 1.0
    while student_coverage(high, degrees) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_coverage(middle, degrees) < confidence else (low, middle)
    return high


def student_coverage(t: float, degrees: int) -> float:
    """P(|T| ≤ t), by the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of the exact paired sign-flip test.

    p is the share of the 2^n sign assignments whose |sum| is at least the observed one; it is never below 2 / 2^n,
    which is 0.0625 for five pairs. Raises ValueError for no differences or more than 20.
    """
    if not 1 <= len(differences) <= MAX_PAIRS:
        raise ValueError(f"between 1 and {MAX_PAIRS} pairs can be tested, got {len(differences)}")
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    seen = abs(math.fsum(differences))
    return float(np.mean(np.abs(sums) >= seen - _ROUNDING * math.fsum(map(abs, differences))))


def area_under_curve(points: Sequence[tuple[int, float]]) -> float:
    """Mean of a curve over its steps, by trapezoids.

    Raises ValueError for no points, and for steps that do not rise.
    """
    steps, scores = [step for step, _ in points], [score for _, score in points]
    if not points or any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise ValueError("a curve needs points at rising steps")
    if len(points) == 1:
        return scores[0]
    areas = ((steps[i + 1] - steps[i]) * (scores[i] + scores[i + 1]) / 2 for i in range(len(steps) - 1))
    return math.fsum(areas) / (steps[-1] - steps[0])


def first_step_at(points: Sequence[tuple[int, float]], score: float) -> int | None:
    """The first step whose value is at least `score`; None where there is no such step."""
    return next((step for step, value in points if value >= score), None)
