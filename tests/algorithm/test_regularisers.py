"""KL estimators and the price of running long."""

import math

import numpy as np
import pytest
import torch

from maspo_dist.algorithm import kl_penalty, overlong_penalty, response_kl

D = 0.5  # logπ − logπ_ref


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [("k1", D, 1.0), ("k2", D**2 / 2, D), ("k3", math.exp(-D) - 1 + D, 1 - math.exp(-D))],
)
def test_each_estimator_gives_the_value_and_gradient_worked_out_by_hand(
    estimator: str, value: float, gradient: float
) -> None:
    current = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.5], dtype=torch.float64, requires_grad=True)
    penalty = kl_penalty(current, reference, estimator)
    penalty.sum().backward()
    assert penalty.item() == pytest.approx(value)
    assert current.grad is not None
    assert current.grad.item() == pytest.approx(gradient)
    assert reference.grad is None


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_estimators_are_zero_at_the_reference_and_finite_far_from_it(estimator: str) -> None:
    current = torch.tensor([-2.0, -1e4, 0.0], requires_grad=True)
    penalty = kl_penalty(current, torch.tensor([-2.0, 0.0, -1e4]), estimator)
    (gradient,) = torch.autograd.grad(penalty.sum(), current)
    assert penalty[0].item() == 0
    assert bool(torch.isfinite(penalty).all() and torch.isfinite(gradient).all())


def test_k1_and_k3_agree_with_the_exact_kl_in_expectation() -> None:
    policy = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    exact = (policy * (policy / reference).log()).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((policy * kl_penalty(policy.log(), reference.log(), estimator)).sum(), exact)


def test_response_kl_sums_over_each_response() -> None:
    current = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    got = response_kl(current, torch.tensor([-1.5, -2.25, -4.0]), torch.tensor([1, 0, 1]), "k1")
    assert got.tolist() == [0.25, 1.5]
    assert not got.requires_grad


def test_overlong_penalty_grows_over_the_last_tokens() -> None:
    lengths = np.array([1, 60, 80, 90, 99, 100, 120], dtype=np.int32)
    got = overlong_penalty(lengths, max_response_tokens=100, buffer_tokens=20, penalty=0.5)
    np.testing.assert_allclose(got, [0, 0, 0, -0.25, -0.475, -0.5, -0.5], rtol=1e-6)
    assert got.dtype == np.float32


def test_a_buffer_of_zero_turns_the_penalty_off() -> None:
    assert overlong_penalty(np.array([100, 120]), 100, 0, 1.0).tolist() == [0, 0]


def test_a_buffer_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"buffer_tokens must lie in \[0, 100\], got 101"):
        overlong_penalty(np.array([5]), 100, 101, 1.0)
