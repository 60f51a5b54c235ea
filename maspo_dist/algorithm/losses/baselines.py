"""The losses MASPO is held against, each with its formula. All are minimised; all return [N].

ρ = exp(clamp(logπ − logπ_old, ±20)); A the advantage, without gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms
from maspo_dist.algorithm.sequences import sequence_mean
from maspo_dist.config import CispoLoss, ClipLoss, DacLoss, GspoLoss, SapoLoss

# The sequence ratio is clamped from above only, as in the authors' code.
_SEQUENCE_LOG_RATIO_LIMIT = 10.0
# Bound on a single log-probability or log-ratio that enters a sum; far beyond any real value.
_LOGPROB_LIMIT = 1e8


def clipped_surrogate(ratio: Tensor, advantages: Tensor, lower: Tensor | float, upper: Tensor | float) -> TokenLoss:
    """−min(ρA, clip(ρ, lower, upper)·A): clips above where A > 0 and below where A < 0."""
    above = (advantages > 0) & (ratio > upper)
    below = (advantages < 0) & (ratio < lower)
    surrogate = torch.where(above, upper, torch.where(below, lower, ratio))
    gate = torch.ones_like(ratio).masked_fill(above | below, 0.0)
    return TokenLoss(values=-advantages * surrogate, gate=gate)


def clip_loss(config: ClipLoss, terms: TokenTerms) -> TokenLoss:
    """PPO's clipped surrogate (arXiv 1707.06347 eq. 7), lower and upper ε apart (Clip-Higher, 2503.14476).

    With `dual_clip` c (arXiv 1912.09729 eq. 5) a token with A < 0 costs at most −c·A.
    """
    lower, upper = 1 - config.epsilon_low, 1 + config.epsilon_high
    loss = clipped_surrogate(terms.ratio, terms.advantages, lower, upper)
    if config.dual_clip is None:
        return loss
    capped = (terms.advantages < 0) & (terms.ratio > config.dual_clip)
    return TokenLoss(
        values=torch.where(capped, -config.dual_clip * terms.advantages, loss.values),
        gate=loss.gate.masked_fill(capped, 0.0),
    )


def sapo_loss(config: SapoLoss, terms: TokenTerms) -> TokenLoss:
    """−A · 4/τ · sigmoid(τ(ρ − 1)), τ = tau_pos where A > 0, else tau_neg (SAPO, arXiv 2511.20347)."""
    tau = torch.full_like(terms.advantages, config.tau_neg).masked_fill(terms.advantages > 0, config.tau_pos)
    soft = torch.sigmoid(tau * (terms.ratio - 1))
    share = soft.detach()
    return TokenLoss(values=-terms.advantages * (4 / tau) * soft, gate=4 * share * (1 - share))


def gspo_loss(config: GspoLoss, terms: TokenTerms) -> TokenLoss:
    """PPO's surrogate with the ratio of the sequence (GSPO-token, arXiv 2507.18071 eq. 14).

    s = exp(min(mean over the response of (logπ − logπ_old), 10)), its gradient that of each token's
    own logπ: s · ∇logπ. With one advantage a response this is GSPO itself.
    """
    difference = (terms.logprobs - terms.old_logprobs).detach().clamp(-_LOGPROB_LIMIT, _LOGPROB_LIMIT)
    mean = sequence_mean(difference, terms.sequence_ids)
    straight_through = terms.logprobs - terms.logprobs.detach()
    ratio = (mean + straight_through).clamp(max=_SEQUENCE_LOG_RATIO_LIMIT).exp()
    return clipped_surrogate(ratio, terms.advantages, 1 - config.epsilon_low, 1 + config.epsilon_high)


def cispo_loss(config: CispoLoss, terms: TokenTerms) -> TokenLoss:
    """−A · clip(ρ, 1 − ε_low, 1 + ε_high) · logπ, the clipped ratio detached (CISPO, arXiv 2506.13585)."""
    ratio = terms.ratio.detach()
    weight = ratio.clamp(1 - config.epsilon_low, 1 + config.epsilon_high)
    logprobs = terms.logprobs.clamp(-_LOGPROB_LIMIT, _LOGPROB_LIMIT)
    return TokenLoss(values=-terms.advantages * weight * logprobs, gate=(weight / ratio).clamp(max=1.0))


def dac_bounds(config: DacLoss, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Clip bounds of the ratio for each token, q = π_old: wide where q is small.

    lower = ½ + ½·√max(1 − 4·ε_low/q, 0)     upper = ½ + ½·√(1 + 4·ε_high/q)
    """
    q = old_logprobs.exp().clamp(min=torch.finfo(old_logprobs.dtype).tiny)
    lower = 0.5 + 0.5 * (1 - 4 * config.epsilon_low / q).clamp(min=0).sqrt()
    upper = 0.5 + 0.5 * (1 + 4 * config.epsilon_high / q).sqrt()
    return lower, upper


def dac_loss(config: DacLoss, terms: TokenTerms) -> TokenLoss:
    """PPO's surrogate with `dac_bounds` (Dynamic Adaptive Clipping, arXiv 2509.02333)."""
    lower, upper = dac_bounds(config, terms.old_logprobs)
    return clipped_surrogate(terms.ratio, terms.advantages, lower, upper)
