"""MASPO: Mass-Adaptive Soft Policy Optimization (arXiv 2602.17550).

Δ = clamp(logπ − logπ_old, ±20)     ρ = exp(Δ)     p = exp(logπ_old)
mass   m  = clamp(σ_base / p^α, σ_base, σ_max)
risk   r  = clamp(1 + β_pos·A, risk_min, risk_max)            where A > 0
            clamp(1 / (1 − β_neg·A), risk_min, risk_max)      where A < 0
width  σ  = m · r
gate   w  = exp(−(ρ − 1)² / 2σ²)   where A > 0 and ρ > 1, or A < 0 and ρ < 1; 1 elsewhere
loss   ℓ  = −A · w · ρ

One step beyond the paper, off by default: `negative: clip` replaces gate and loss where A < 0 by PPO's clip. The
paper's gate limits little there: ρ is at most 1 away from 1, which is about one σ at the defaults.

       ℓ  = −A · max(ρ, 0.8), w = 0 below 0.8 and 1 elsewhere     where A < 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms
from maspo_dist.config import MaspoLoss

#: Lower bound of the ratio under `negative: clip`, as PPO and GRPO have it.
_NEGATIVE_LOWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRegion:
    """The gate's parts, each [N]; the ratio enters only `gated`, so no part carries gradient.

    gated     bool: the token moved in the direction that its advantage pushes, on a side that the gate is used for
    width     σ, in units of ρ
    mass_at_base, mass_at_max, risk_at_min, risk_at_max   bool: which clamp binds
    """

    gated: Tensor
    width: Tensor
    mass_at_base: Tensor
    mass_at_max: Tensor
    risk_at_min: Tensor
    risk_at_max: Tensor


def trust_region(config: MaspoLoss, ratio: Tensor, old_logprobs: Tensor, advantages: Tensor) -> TrustRegion:
    """Width and clamps of the gate for each token; inputs [N], any floating dtype."""
    growth = -config.alpha * old_logprobs
    # Clamped in the exponent: p^−α would overflow where p underflows.
    growth_limit = math.log(config.sigma_max) - math.log(config.sigma_base)
    mass = config.sigma_base * growth.clamp(0.0, growth_limit).exp()
    risk = torch.where(
        advantages > 0,
        1 + config.beta_pos * advantages,
        1 / (1 - config.beta_neg * advantages),
    )
    upward = (advantages > 0) & (ratio > 1)
    downward = (advantages < 0) & (ratio < 1)
    return TrustRegion(
        gated=upward | downward if config.negative == "maspo" else upward,
        width=mass * risk.clamp(config.risk_min, config.risk_max),
        mass_at_base=growth <= 0,
        mass_at_max=growth >= growth_limit,
        risk_at_min=risk <= config.risk_min,
        risk_at_max=risk >= config.risk_max,
    )


def maspo_loss(config: MaspoLoss, terms: TokenTerms) -> TokenLoss:
    """−A·w·ρ for each token, [N], in the dtype of `terms`; formula and source at the top of this module.

    The gate carries no gradient unless `differentiate_gate`: with that gradient, the gradient of a token
    with A > 0 changes sign at ρ > (1 + √(1 + 4σ²)) / 2. With `negative_ratio_cap` c, tokens with A < 0
    and ρ > c cost −A·c and carry no gradient; their gate is 0. So it is with `negative: clip` and ρ < 0.8.
    """
    ratio, advantages = terms.ratio, terms.advantages
    region = trust_region(config, ratio, terms.old_logprobs, advantages)
    gate_ratio = ratio if config.differentiate_gate else ratio.detach()
    distance = (gate_ratio - 1) / region.width
    gate = torch.where(region.gated, (-(distance**2) / 2).exp(), 1.0)
    surrogate, kept = ratio, gate.detach()
    if config.negative == "clip":
        clipped = (advantages < 0) & (ratio < _NEGATIVE_LOWER)
        surrogate, kept = torch.where(clipped, _NEGATIVE_LOWER, surrogate), kept.masked_fill(clipped, 0.0)
    if config.negative_ratio_cap is not None:
        capped = (advantages < 0) & (ratio > config.negative_ratio_cap)
        surrogate, kept = torch.where(capped, config.negative_ratio_cap, surrogate), kept.masked_fill(capped, 0.0)
    return TokenLoss(values=-advantages * gate * surrogate, gate=kept)
