"""CISPO, clipped importance sampling weights (arXiv 2506.13585).

weight  w = clip(ρ, 1 − ε_low, 1 + ε_high), without gradient
loss    ℓ = −A · w · logπ
gate    min(w / ρ, 1)
"""

from __future__ import annotations

from maspo_dist.algorithm.losses.terms import LOGPROB_LIMIT, TokenLoss, TokenTerms
from maspo_dist.config import CispoLoss


def cispo_loss(config: CispoLoss, terms: TokenTerms) -> TokenLoss:
    """The formula at the top, [N]."""
    ratio = terms.ratio.detach()
    weight = ratio.clamp(1 - config.epsilon_low, 1 + config.epsilon_high)
    logprobs = terms.logprobs.clamp(-LOGPROB_LIMIT, LOGPROB_LIMIT)
    return TokenLoss(values=-terms.advantages * weight * logprobs, gate=(weight / ratio).clamp(max=1.0))
