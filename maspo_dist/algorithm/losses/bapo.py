"""BAPO: clip bounds that move until positive tokens carry their share (arXiv 2510.18927).

loss  ℓ = −min(ρA, clip(ρ, lower_start, upper_start)·A)
gate  1 where the gradient flows, 0 where it is clipped away

The bounds of an optimizer step depend on all of its tokens, so a pass without gradient comes first:

    1.  for each micro-batch, on each rank:  sums += bapo_contributions(config, logprobs, …)
    2.  all-reduce `sums` over ranks (SUM);  moved = move_bounds(config, sums)
    3.  for each micro-batch:                token_loss(moved, …)

Every optimizer step starts from the configured bounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.clip import clipped_surrogate
from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms, token_terms
from maspo_dist.config import BapoLoss


def bapo_loss(config: BapoLoss, terms: TokenTerms) -> TokenLoss:
    """The formula at the top, [N]."""
    return clipped_surrogate(terms.ratio, terms.advantages, config.lower_start, config.upper_start)


@torch.no_grad()
def bapo_contributions(config: BapoLoss, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Clipped contributions of one micro-batch at every bound that may be chosen, f64[lowers + uppers].

    At a lower bound l:  Σ |A|·max(ρ, l) over tokens with A < 0.
    At an upper bound u: Σ A·min(ρ, u)   over tokens with A > 0.
    Inputs are [N]. Add over micro-batches and ranks, then `move_bounds`.
    """
    terms = token_terms(logprobs, old_logprobs, advantages, torch.zeros_like(old_logprobs))
    ratio, gain = terms.ratio.double(), terms.advantages.double()
    loss, gain = -gain.clamp(max=0), gain.clamp(min=0)
    lowers, uppers = _bounds(config)
    negative = [(loss * ratio.clamp(min=bound)).sum() for bound in lowers]
    positive = [(gain * ratio.clamp(max=bound)).sum() for bound in uppers]
    return torch.stack(negative + positive)


def move_bounds(config: BapoLoss, contributions: Tensor) -> BapoLoss:
    """`config`, its starting bounds replaced by those of this optimizer step.

    They are the first bounds at which positive / negative contribution reaches `target`, or the last ones.
    The lower bound climbs to its stop, then the upper bound, as in the authors' code.
    `contributions` f64[lowers + uppers] of the whole optimizer step, over all ranks. Raises ValueError
    where there are more or fewer than the configuration has bounds.
    """
    lowers, uppers = _bounds(config)
    if contributions.shape != (len(lowers) + len(uppers),):
        raise ValueError(f"contributions must be [{len(lowers) + len(uppers)}], got {list(contributions.shape)}")
    sums = contributions.tolist()
    negative, positive = sums[: len(lowers)], sums[len(lowers) :]
    climb = [(i, 0) for i in range(len(lowers))] + [(len(lowers) - 1, j) for j in range(1, len(uppers))]
    reached = ((i, j) for i, j in climb if positive[j] >= config.target * negative[i])
    i, j = next(reached, climb[-1])
    return config.model_copy(update={"lower_start": lowers[i], "upper_start": uppers[j]})


def _bounds(config: BapoLoss) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """All lower and all upper bounds that may be chosen, from start to stop."""
    return (
        _steps(config.lower_start, config.lower_stop, config.lower_step),
        _steps(config.upper_start, config.upper_stop, config.upper_step),
    )


def _steps(start: float, stop: float, step: float) -> tuple[float, ...]:
    # Without the slack, rounding would make 0.8 + 3·0.05 less than 0.95.
    count = math.ceil((stop - start) / step - 1e-9)
    return tuple(min(start + i * step, stop) for i in range(count + 1))
