"""Group-relative and entropy-shaped advantages."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maspo_dist.algorithm import entropy_advantages, group_advantages
from maspo_dist.config import EntropyAdvantage

rewards = st.lists(st.floats(-10, 10), min_size=2, max_size=16)
quick = settings(max_examples=100, deadline=None)


def test_one_right_response_of_four_has_the_advantages_worked_out_by_hand() -> None:
    # mean ¼, unbiased std ½
    got = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    want = torch.tensor([0.75, -0.25, -0.25, -0.25], dtype=torch.float64) / (0.5 + 1e-6)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=0)


def test_without_the_standard_deviation_only_the_mean_is_taken_off() -> None:
    got = group_advantages(np.array([1.0, 0.0, 0.0, 0.0], dtype=np.float32), normalize_std=False)
    np.testing.assert_array_equal(got, np.array([0.75, -0.25, -0.25, -0.25], dtype=np.float32))


@pytest.mark.parametrize("normalize_std", [True, False])
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.7, 1e6, -0.3])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_a_group_of_equal_rewards_has_advantages_of_exactly_zero(reward: float, size: int, normalize_std: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        got = group_advantages(torch.full((size,), reward, dtype=dtype), normalize_std)
        assert torch.equal(got, torch.zeros(size, dtype=dtype))


@quick
@given(rewards, st.booleans())
def test_advantages_sum_to_zero(values: list[float], normalize_std: bool) -> None:
    got = group_advantages(np.array(values), normalize_std)
    assert abs(got.sum()) < 1e-8


@quick
@given(rewards, st.integers(-8, 8), st.booleans())
def test_advantages_ignore_a_shift_of_the_rewards(values: list[float], shift: int, normalize_std: bool) -> None:
    # On a grid of 1/1024, so that the shift itself is exact.
    grid = np.round(np.array(values) * 1024) / 1024
    np.testing.assert_allclose(
        group_advantages(grid + shift, normalize_std), group_advantages(grid, normalize_std), rtol=1e-9, atol=1e-12
    )


def test_arrays_come_back_in_their_own_kind_and_dtype() -> None:
    assert group_advantages(np.array([0, 1], dtype=np.float32)).dtype == np.float32
    assert group_advantages(np.array([0, 1])).dtype == np.float32
    assert group_advantages(torch.tensor([0.0, 1.0], dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert group_advantages(torch.tensor([0, 1])).dtype == torch.float32


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((2, 2)), np.array([0.0, np.nan]), np.array([0.0, np.inf])])
def test_rewards_that_are_not_a_finite_vector_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rewards must be"):
        group_advantages(bad)


def test_entropy_adds_its_share_up_to_a_part_of_the_advantage() -> None:
    config = EntropyAdvantage(alpha=0.4, kappa=2.0)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0])
    entropy = torch.tensor([0.5, 3.0, 0.5, 3.0, 3.0], requires_grad=True)
    got = entropy_advantages(config, advantages, entropy)
    torch.testing.assert_close(got, torch.tensor([1.2, 1.5, -0.8, -0.5, 0.0]))
    assert not got.requires_grad
