"""BAPO: clip bounds that move until positive tokens carry their share (arXiv 2510.18927).

The bounds are agreed over the whole optimizer step, which takes a pass without gradient first:

    1.  for each micro-batch, on each rank:  sums += bapo_contributions(config, logprobs, …)
    2.  all-reduce `sums` over ranks (SUM);  bounds = select_bounds(config, sums)
    3.  for each micro-batch:                token_loss(config, …, bapo_bounds=bounds)

Before the first optimizer step of a batch logπ is logπ_old, so pass 1 needs no forward there.
Bounds start afresh at every optimizer step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.baselines import clipped_surrogate
from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms, token_terms
from maspo_dist.config import BapoLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class BapoBounds:
    """The ratio is clipped to [lower, upper] in this optimizer step."""

    lower: float
    upper: float


def _rungs(start: float, stop: float, step: float) -> tuple[float, ...]:
    # The slack keeps 0.8 + 3·0.05 from being taken for less than 0.95.
    count = math.ceil((stop - start) / step - 1e-9)
    return tuple(min(start + i * step, stop) for i in range(count + 1))


def _lower_rungs(config: BapoLoss) -> tuple[float, ...]:
    return _rungs(config.lower_start, config.lower_stop, config.lower_step)


def _upper_rungs(config: BapoLoss) -> tuple[float, ...]:
    return _rungs(config.upper_start, config.upper_stop, config.upper_step)


def starting_bounds(config: BapoLoss) -> BapoBounds:
    """Bounds before anything is known of the step."""
    return BapoBounds(lower=config.lower_start, upper=config.upper_start)


@torch.no_grad()
def bapo_contributions(config: BapoLoss, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Clipped contributions of one micro-batch at every bound that may be chosen, f64[lowers + uppers].

    At a lower bound l:  Σ |A|·max(ρ, l) over tokens with A < 0.
    At an upper bound u: Σ A·min(ρ, u)   over tokens with A > 0.
    Inputs are [N]. Add over micro-batches and ranks, then `select_bounds`.
    """
    terms = token_terms(logprobs, old_logprobs, advantages, torch.zeros_like(old_logprobs))
    ratio, gain = terms.ratio.double(), terms.advantages.double()
    loss, gain = -gain.clamp(max=0), gain.clamp(min=0)
    negative = [(loss * ratio.clamp(min=bound)).sum() for bound in _lower_rungs(config)]
    positive = [(gain * ratio.clamp(max=bound)).sum() for bound in _upper_rungs(config)]
    return torch.stack(negative + positive)


def select_bounds(config: BapoLoss, contributions: Tensor) -> BapoBounds:
    """The first bounds at which positive / negative contribution reaches `target`, or the last.

    The lower bound climbs to its stop, then the upper one, as in the authors' code.
    `contributions` f64[lowers + uppers] of the whole optimizer step, over all ranks. Raises ValueError
    where there are more or fewer than the configuration has bounds.
    """
    lowers, uppers = _lower_rungs(config), _upper_rungs(config)
    if contributions.shape != (len(lowers) + len(uppers),):
        raise ValueError(f"contributions must be [{len(lowers) + len(uppers)}], got {list(contributions.shape)}")
    sums = contributions.tolist()
    negative, positive = sums[: len(lowers)], sums[len(lowers) :]
    climb = [(i, 0) for i in range(len(lowers))] + [(len(lowers) - 1, j) for j in range(1, len(uppers))]
    reached = ((i, j) for i, j in climb if positive[j] >= config.target * negative[i])
    i, j = next(reached, climb[-1])
    return BapoBounds(lower=lowers[i], upper=uppers[j])


def bapo_loss(bounds: BapoBounds, terms: TokenTerms) -> TokenLoss:
    """PPO's surrogate clipped to `bounds`, [N]."""
    return clipped_surrogate(terms.ratio, terms.advantages, bounds.lower, bounds.upper)
