"""DPPO, Divergence Proximal Policy Optimization: tokens are masked by the change of their probability (binary TV).

mask     |π − π_old| > threshold_high  where A > 0 and π > π_old
         |π − π_old| > threshold_low   where A < 0 and π < π_old
loss     ℓ = −[not masked]·ρA + penalty·(logπ − logπ_old)²     0 where A = 0
gate     0 where a token is masked, 1 elsewhere; the penalty is not part of the gate

The mask is that of arXiv 2602.04879; the squared log-ratio is that of Kimi K2.5 (arXiv 2602.02276). prime-rl combines
the two by default, with the defaults here. The sources compare with the policy that sampled the tokens, as
`algorithm.old_logprobs: rollout` does. They apply the penalty where A = 0 too; here such a token has no gradient.
"""

from __future__ import annotations

import torch

from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms, log_ratio
from maspo_dist.config import DppoLoss


def dppo_loss(config: DppoLoss, terms: TokenTerms) -> TokenLoss:
    """The formula at the top, [N]."""
    advantages = terms.advantages
    change = terms.logprobs.detach().exp() - terms.old_logprobs.exp()
    masked = torch.where(advantages > 0, change > config.threshold_high, change < -config.threshold_low)
    masked &= advantages != 0
    surrogate = terms.ratio.masked_fill(masked, 0.0)
    squared = log_ratio(terms.logprobs, terms.old_logprobs).masked_fill(advantages == 0, 0.0) ** 2
    return TokenLoss(
        values=-advantages * surrogate + config.penalty * squared,
        gate=torch.ones_like(advantages).masked_fill(masked, 0.0),
    )
