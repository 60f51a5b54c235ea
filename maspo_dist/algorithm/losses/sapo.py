"""SAPO, Soft Adaptive Policy Optimization (arXiv 2511.20347).

τ = tau_pos where A > 0, else tau_neg     s = sigmoid(τ(ρ − 1))
loss  ℓ = −A · 4/τ · s
gate  4·s·(1 − s), the derivative of the soft gate
"""

from __future__ import annotations

import torch

from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms
from maspo_dist.config import SapoLoss


def sapo_loss(config: SapoLoss, terms: TokenTerms) -> TokenLoss:
    """The formula at the top, [N]."""
    tau = torch.full_like(terms.advantages, config.tau_neg).masked_fill(terms.advantages > 0, config.tau_pos)
    soft = torch.sigmoid(tau * (terms.ratio - 1))
    share = soft.detach()
    return TokenLoss(values=-terms.advantages * (4 / tau) * soft, gate=4 * share * (1 - share))
