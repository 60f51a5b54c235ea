"""What the proof of a publish accepts, and what it says when it fails."""

from __future__ import annotations

import numpy as np
import pytest

from actors.rollout.proof import LogprobGaps, logprob_gaps, mean_gap_limit, require_proven
from maspo_dist.errors import WeightSyncError

CLOSE = LogprobGaps(mean=0.01, largest=0.7)


def test_gaps_are_over_all_tokens_of_all_probes() -> None:
    got = [np.asarray([-1.0, -2.0], np.float32), np.asarray([-3.0, -4.0], np.float32)]
    expected = [np.asarray([-1.0, -2.5], np.float32), np.asarray([-3.25, -4.25], np.float32)]
    assert logprob_gaps(got, expected) == LogprobGaps(mean=0.25, largest=0.5)
    assert logprob_gaps([], []) == LogprobGaps(mean=0.0, largest=0.0)


@pytest.mark.parametrize("broken", [np.nan, -np.inf])
def test_a_logprob_that_is_no_number_is_an_infinite_gap(broken: float) -> None:
    gaps = logprob_gaps([np.asarray([broken, -1.0], np.float32)], [np.asarray([-1.0, -1.0], np.float32)])
    assert gaps.mean == gaps.largest == np.inf
    assert logprob_gaps([np.asarray([-np.inf], np.float32)], [np.asarray([-np.inf], np.float32)]).mean == np.inf


@pytest.mark.parametrize(
    ("configured", "dtype", "at_start", "limit"),
    [
        (None, "bfloat16", 0.03, 0.06),
        (None, "bfloat16", 0.001, 0.02),
        (None, "bfloat16", None, 0.2),
        (None, "float32", 1e-6, 1e-4),
        (None, "float32", 1e-3, 2e-3),
        (None, "float32", None, 1e-3),
        (0.5, "float32", 1e-6, 0.5),
        (0.5, "bfloat16", None, 0.5),
    ],
)
def test_the_limit_is_twice_the_mean_at_the_start(
    configured: float | None, dtype: str, at_start: float | None, limit: float
) -> None:
    assert mean_gap_limit(configured, dtype, at_start) == limit


def test_the_mean_is_judged_and_the_largest_gap_is_not() -> None:
    require_proven("worker", 7, (), (), CLOSE, 0.02)
    with pytest.raises(
        WeightSyncError, match=r"^worker does not hold policy version 7: .* by 0\.01 on average, at most"
    ):
        require_proven("worker", 7, (), (), CLOSE, 0.005)
