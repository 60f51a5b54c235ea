"""Figures against counts by hand, tables, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.compare.statistics import (
    area_under_curve,
    first_step_at,
    holm,
    mean_over_seeds,
    sign_flip_test,
)


@pytest.mark.parametrize("degrees", range(1, 20))
def test_the_interval_holds_95_percent_of_students_density(degrees: int) -> None:
    values = [0.0] * degrees + [1.0]
    half = mean_over_seeds(values).high - mean_over_seeds(values).value
    t = np.linspace(0, half / (np.std(values, ddof=1) / math.sqrt(degrees + 1)), 100_001)
    scale = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    density = scale * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    assert 2 * np.trapezoid(density, t) == pytest.approx(0.95, abs=1e-7)


def test_an_interval_counted_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, t = 4.303, half a width of 4.303 / √3."""
    estimate = mean_over_seeds([1.0, 2.0, 3.0])
    assert estimate.value == 2
    assert [2 - estimate.low, estimate.high - 2] == pytest.approx([4.303 / math.sqrt(3)] * 2, abs=1e-3)


def test_one_seed_has_no_interval() -> None:
    estimate = mean_over_seeds([0.5])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, -math.inf, math.inf)


def test_intervals_of_five_seeds_cover_the_truth_as_often_as_their_confidence() -> None:
    rng = np.random.default_rng(0)
    estimates = [mean_over_seeds(rng.normal(0.3, 0.1, 5).tolist()) for _ in range(1000)]
    covered = sum(one.low <= 0.3 <= one.high for one in estimates)
    assert 930 <= covered <= 970


def test_sign_flips_counted_by_hand() -> None:
    # |±1 ± 2 ± 3| reaches 6 in 2 of 8 ways; |1 + 2 − 3| = 0 is reached always.
    assert sign_flip_test([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_test([1.0, 2.0, -3.0]) == 1.0
    # |3 + 2 − 1| = 4 is reached by ±6 and ±4.
    assert sign_flip_test([3.0, 2.0, -1.0]) == 4 / 8
    assert sign_flip_test([0.1] * 5) == 2 / 32
    assert sign_flip_test([0.0, 0.0]) == 1.0


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=7))
def test_sign_flips_equal_plain_enumeration(differences: list[int]) -> None:
    """In tenths, which floats do not represent exactly: ties must remain ties."""
    flips = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    share = sum(flip >= abs(sum(differences)) for flip in flips) / len(flips)
    assert sign_flip_test([d / 10 for d in differences]) == pytest.approx(share)


def test_without_a_difference_the_p_value_is_below_a_level_with_the_probability_of_the_level() -> None:
    rng = np.random.default_rng(1)
    below = np.mean([sign_flip_test(rng.normal(size=6).tolist()) <= 0.125 for _ in range(2000)])
    assert 0.10 <= below <= 0.15


def test_more_pairs_than_can_be_enumerated_are_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and 20 pairs can be tested, got 21"):
        sign_flip_test([1.0] * 21)


def test_the_area_under_a_curve_counted_by_hand() -> None:
    # 10 steps at ½ on average, then 30 at 1.
    assert area_under_curve([(0, 0.0), (10, 1.0), (40, 1.0)]) == pytest.approx((5 + 30) / 40)
    assert area_under_curve([(3, 0.4)]) == 0.4
    with pytest.raises(ValueError, match="rising steps"):
        area_under_curve([(1, 0.0), (1, 1.0)])


def test_a_score_is_reached_at_the_first_step_that_was_measured_there() -> None:
    curve = [(0, 0.3), (5, 0.6), (10, 0.5), (15, 0.7)]
    assert first_step_at(curve, 0.6) == 5
    assert first_step_at(curve, 0.65) == 15
    assert first_step_at(curve, 0.8) is None


def test_holms_correction_counted_by_hand() -> None:
    """Sorted .01, .02, .04 times 3, 2 and 1: .03, .04, .04; then in their order, and never above 1."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
