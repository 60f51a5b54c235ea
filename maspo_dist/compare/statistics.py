"""Estimates over seeds: of a variant, and of the difference between two variants.

Most comparisons have few seeds, so that intervals are Student's and the test is exact.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from maspo_dist.evaluation.statistics import Estimate

#: Most pairs of a test, which enumerates 2^20 sums for them.
MAX_PAIRS = 20

#: Sums whose relative difference is smaller than this are equal but for rounding.
_ROUNDING = 1e-9
#: The t with P(|T| ≤ t) = 0.95 for Student's T of 1 to 19 degrees of freedom.
_STUDENT = (
    12.706204736176005, 4.302652729751571, 3.182446305285339, 2.7764451051989454, 2.5705818356364034,
    2.4469118511460692, 2.364624251593341, 2.3060041352055123, 2.262157162798758, 2.228138851987751,
    2.2009851600923866, 2.178812829668459, 2.160368656463106, 2.144786687918895, 2.1314495455608267,
    2.1199052992215, 2.1098155778345244, 2.10092204024113, 2.0930240544093976,
)  # fmt: skip


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """mean ± t · s / √n, the 95 % interval, with Student's t of n − 1 degrees of freedom; infinite bounds for n = 1.

    Raises ValueError for no values or more than 20.
    """
    n = len(values)
    if not 1 <= n <= MAX_PAIRS:
        raise ValueError(f"the mean is over 1 to {MAX_PAIRS} values, got {n}")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(value=mean, low=-math.inf, high=math.inf)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = _STUDENT[n - 2] * math.sqrt(variance / n)
    return Estimate(value=mean, low=mean - half, high=mean + half)


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: rejecting where the result is below α errs anywhere with probability α at most.

    With p sorted upwards, the i-th of n becomes max over j ≤ i of (n − j + 1) · p_j, at most 1.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def area_under_curve(points: Sequence[tuple[int, float]]) -> float:
    """Mean of a curve over its steps, by trapezoids. Raises ValueError for no points, or if the steps do not rise."""
    if not points or any(later <= earlier for (earlier, _), (later, _) in itertools.pairwise(points)):
        raise ValueError("a curve needs points at rising steps")
    if len(points) == 1:
        return points[0][1]
    areas = ((later - earlier) * (low + high) / 2 for (earlier, low), (later, high) in itertools.pairwise(points))
    return math.fsum(areas) / (points[-1][0] - points[0][0])


def first_step_at(points: Sequence[tuple[int, float]], score: float) -> int | None:
    """The first step whose value is at least `score`; None where there is no such step."""
    return next((step for step, value in points if value >= score), None)
