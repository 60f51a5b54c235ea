"""Dynamic Adaptive Clipping (arXiv 2509.02333): the bounds are wide where q = π_old is small.

lower = ½ + ½·√max(1 − 4·ε_low/q, 0)     upper = ½ + ½·√(1 + 4·ε_high/q)
loss  ℓ = −min(ρA, clip(ρ, lower, upper)·A)
gate  1 where the gradient flows, 0 where it is clipped away
"""

from __future__ import annotations

import torch

from maspo_dist.algorithm.losses.clip import clipped_surrogate
from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms
from maspo_dist.config import DacLoss


def dac_loss(config: DacLoss, terms: TokenTerms) -> TokenLoss:
    """The formula at the top, [N]."""
    q = terms.old_logprobs.exp().clamp(min=torch.finfo(terms.old_logprobs.dtype).tiny)
    lower = 0.5 + 0.5 * (1 - 4 * config.epsilon_low / q).clamp(min=0).sqrt()
    upper = 0.5 + 0.5 * (1 + 4 * config.epsilon_high / q).sqrt()
    return clipped_surrogate(terms.ratio, terms.advantages, lower, upper)
