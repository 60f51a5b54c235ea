"""GSPO-token, Group Sequence Policy Optimization (arXiv 2507.18071 eq. 14).

ratio  s = exp(min(mean over the response of (logπ − logπ_old), 10)), with gradient s·∇logπ of the token's own logπ
loss   ℓ = −min(sA, clip(s, 1 − ε_low, 1 + ε_high)·A)
gate   1 where the gradient flows, 0 where it is clipped away

With one advantage per response this is GSPO itself.
"""

from __future__ import annotations

from maspo_dist.algorithm.aggregate import sequence_mean
from maspo_dist.algorithm.losses.clip import clipped_surrogate
from maspo_dist.algorithm.losses.terms import LOGPROB_LIMIT, TokenLoss, TokenTerms
from maspo_dist.config import GspoLoss

# Clamped from above only, as in the authors' code.
_SEQUENCE_LOG_RATIO_LIMIT = 10.0


def gspo_loss(config: GspoLoss, terms: TokenTerms) -> TokenLoss:
    """The formula at the top, [N]."""
    difference = (terms.logprobs - terms.old_logprobs).detach().clamp(-LOGPROB_LIMIT, LOGPROB_LIMIT)
    mean = sequence_mean(difference, terms.sequence_ids)
    straight_through = terms.logprobs - terms.logprobs.detach()
    ratio = (mean + straight_through).clamp(max=_SEQUENCE_LOG_RATIO_LIMIT).exp()
    return clipped_surrogate(ratio, terms.advantages, 1 - config.epsilon_low, 1 + config.epsilon_high)
