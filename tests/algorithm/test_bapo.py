"""BAPO's bounds, agreed over an optimizer step."""

import math

import pytest
import torch

from maspo_dist.algorithm import bapo_contributions, move_bounds, token_loss
from maspo_dist.config import BapoLoss

CONFIG = BapoLoss()
LOWERS = [0.8, 0.85, 0.9, 0.95]
UPPERS = [1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]


def bounds(config: BapoLoss) -> tuple[float, float]:
    return config.lower_start, config.upper_start


def _ratios(*pairs: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ρ, A) pairs as (logπ, logπ_old, A)."""
    rho, advantage = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    return rho.log(), torch.zeros_like(rho), advantage


def test_contributions_are_clipped_at_every_bound_that_may_be_chosen() -> None:
    got = bapo_contributions(CONFIG, *_ratios((0.5, -1.0), (2.0, -3.0), (1.45, 1.0), (0.1, 2.0), (7.0, 0.0)))
    negative = [lower + 6.0 for lower in LOWERS]
    positive = [min(1.45, upper) + 0.2 for upper in UPPERS]
    torch.testing.assert_close(got, torch.tensor(negative + positive, dtype=torch.float64))


def test_contributions_add_up_over_micro_batches() -> None:
    pairs = [(0.5, -1.0), (1.7, 0.4), (1.1, -2.0), (3.0, 1.5)]
    whole = bapo_contributions(CONFIG, *_ratios(*pairs))
    parts = bapo_contributions(CONFIG, *_ratios(*pairs[:1])) + bapo_contributions(CONFIG, *_ratios(*pairs[1:]))
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(
    ("positive_advantage", "want"),
    [
        # Σ negative = 2 at every lower bound, so the target asks Σ positive = A·min(3, upper) ≥ 1.
        (1.00, (0.8, 1.2)),  # 1.2 at the start
        (1 / 1.2, (0.8, 1.2)),  # just reached
        (0.80, (0.95, 1.3)),  # 0.96 at 1.2; lower bounds don't help, 1.04 at 1.3
        (0.54, (0.95, 1.9)),
        (0.10, (0.95, 2.0)),  # never reached
    ],
)
def test_the_lower_bound_climbs_first_then_the_upper_one(positive_advantage: float, want: tuple[float, float]) -> None:
    # one positive token at ρ = 3, one negative at ρ = 1
    advantage = math.nextafter(positive_advantage, 2)
    got = move_bounds(CONFIG, bapo_contributions(CONFIG, *_ratios((3.0, advantage), (1.0, -2.0))))
    assert bounds(got) == pytest.approx(want)


def test_a_share_equal_to_the_target_meets_it() -> None:
    sums = torch.tensor([2.0] * 4 + [1.0] * 9, dtype=torch.float64)
    assert bounds(move_bounds(CONFIG, sums)) == (0.8, 1.2)


def test_without_negative_tokens_the_bounds_stay_where_they_start() -> None:
    got = move_bounds(CONFIG, bapo_contributions(CONFIG, *_ratios((1.0, 1.0))))
    assert bounds(got) == (0.8, 1.2)


def test_steps_stop_exactly_at_the_bound() -> None:
    config = BapoLoss(lower_step=0.07, upper_step=5.0)
    none_positive = bapo_contributions(config, *_ratios((1.0, -1.0)))
    assert bounds(move_bounds(config, none_positive)) == (0.95, 2.0)


def test_contributions_of_another_configuration_are_refused() -> None:
    with pytest.raises(ValueError, match=r"contributions must be \[13\]"):
        move_bounds(CONFIG, torch.zeros(5, dtype=torch.float64))


def test_the_loss_clips_to_the_agreed_bounds() -> None:
    logprobs, old, advantages = _ratios((1.45, 1.0), (1.55, 1.0), (0.92, -1.0), (0.88, -1.0))
    ids = torch.arange(4)
    loss = token_loss(BapoLoss(lower_start=0.9, upper_start=1.5), logprobs, old, advantages, ids)
    torch.testing.assert_close(loss.values, torch.tensor([-1.45, -1.5, 0.92, 0.9], dtype=torch.float64))
    assert loss.gate.tolist() == [1, 0, 1, 0]
