"""PPO's clipped surrogate, as GRPO uses it (arXiv 1707.06347 eq. 7).

loss  ℓ = −min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high)·A)     two ε: Clip-Higher (arXiv 2503.14476)
gate  1 where the gradient flows, 0 where it is clipped away
"""

from __future__ import annotations

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms
from maspo_dist.config import ClipLoss


def clip_loss(config: ClipLoss, terms: TokenTerms) -> TokenLoss:
    """The formula at the top; with `dual_clip` c (arXiv 1912.09729 eq. 5) a token with A < 0 costs at most −c·A."""
    loss = clipped_surrogate(terms.ratio, terms.advantages, 1 - config.epsilon_low, 1 + config.epsilon_high)
    if config.dual_clip is None:
        return loss
    capped = (terms.advantages < 0) & (terms.ratio > config.dual_clip)
    return TokenLoss(
        values=torch.where(capped, -config.dual_clip * terms.advantages, loss.values),
        gate=loss.gate.masked_fill(capped, 0.0),
    )


def clipped_surrogate(ratio: Tensor, advantages: Tensor, lower: Tensor | float, upper: Tensor | float) -> TokenLoss:
    """−min(ρA, clip(ρ, lower, upper)·A), [N]: clips above where A > 0 and below where A < 0."""
    above = (advantages > 0) & (ratio > upper)
    below = (advantages < 0) & (ratio < lower)
    surrogate = torch.where(above, upper, torch.where(below, lower, ratio))
    gate = torch.ones_like(ratio).masked_fill(above | below, 0.0)
    return TokenLoss(values=-advantages * surrogate, gate=gate)
