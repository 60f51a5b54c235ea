"""Weights for the mismatch between rollout engine and learner.

Tokens are drawn from the engine's π_behavior, but ratios are taken against the learner's own π_old. The weight
c = π_old / π_behavior, detached, multiplies the token's policy loss:

    ∇ = −A · c · w(ρ) · ρ · ∇logπ      c · ρ = π / π_behavior

MASPO's width σ is computed from π_old, never from π_behavior or c. The gate bounds how far an update may move π from
where the update began, and ρ is measured from π_old; c says how much a sample counts, and not how far it moved. With
π_behavior in σ, the engine's numerical noise would open and close the trust region, most of all for rare tokens, where
both σ and the noise are largest. KL penalty and entropy bonus are not weighted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from maspo_dist.algorithm.aggregate import Totals, sequence_mean
from maspo_dist.algorithm.losses.terms import log_ratio
from maspo_dist.config import CorrectionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Weights [N] of the token losses, without gradient; totals for `correction_metrics`."""

    weights: Tensor
    totals: Totals


def weighs_tokens_alone(config: CorrectionConfig) -> bool:
    """Whether the weight of a token depends on no other token."""
    return config.kind == "none" or (config.kind != "sequence_mask" and config.level == "token")


@torch.no_grad()
def correction_weights(
    config: CorrectionConfig, old_logprobs: Tensor, behavior_logprobs: Tensor, sequence_ids: Tensor
) -> Correction:
    """Weight of each token, from c = exp(clamp(logπ_old − logπ_behavior, ±20)); all [N].

    At level `sequence`, c is the geometric mean over the response, the same for all its tokens.

    none           1; the totals are those of the mismatch itself
    tis            min(c, upper)                              (truncated importance sampling)
    icepop         c where lower ≤ c ≤ upper, else 0
    sequence_mask  1 where lower ≤ c ≤ upper, else 0; c is always the response's geometric mean
    """
    dtype = torch.promote_types(old_logprobs.dtype, torch.float32)
    mismatch = log_ratio(old_logprobs.to(dtype), behavior_logprobs.to(dtype))
    if config.level == "sequence" or config.kind == "sequence_mask":
        mismatch = sequence_mean(mismatch, sequence_ids)
    raw = mismatch.exp()
    outside = (raw < config.lower) | (raw > config.upper)
    match config.kind:
        case "none":
            weights, affected = torch.ones_like(raw), torch.zeros_like(outside)
        case "tis":
            weights, affected = raw.clamp(max=config.upper), raw > config.upper
        case "icepop":
            weights, affected = raw.masked_fill(outside, 0.0), outside
        case "sequence_mask":
            weights, affected = torch.ones_like(raw).masked_fill(outside, 0.0), outside
        case _:
            assert_never(config.kind)
    return Correction(weights=weights, totals=_totals(raw, weights, affected))


def _totals(raw: Tensor, weights: Tensor, affected: Tensor) -> Totals:
    weighed, used = raw.double(), weights.double()
    columns = (torch.ones_like(weighed), weighed, affected.double(), used, used**2, weighed - 1 - weighed.log())
    # An empty micro-batch has no maximum; 0 is below every weight.
    return Totals(
        sums=torch.stack(columns).sum(dim=1), maxima=torch.cat((weighed, weighed.new_zeros(1))).amax(0, keepdim=True)
    )


def correction_metrics(config: CorrectionConfig, totals: Totals) -> dict[str, float]:
    """Flat numbers of an optimizer step or batch; empty if there were no tokens.

    correction/weight_mean, weight_max       of c, before truncation or masking
    correction/share_truncated | share_masked   of tokens, by what the kind does to them
    correction/effective_sample_share        (Σ weight)² / (tokens · Σ weight²), of weights as used
    correction/mismatch_kl_k3                mean of c − 1 − log c, estimates KL(π_behavior ‖ π_old)
    """
    tokens, raw, affected, used, used_squared, k3 = totals.sums.tolist()
    if tokens == 0:
        return {}
    metrics = {
        "correction/weight_mean": raw / tokens,
        "correction/weight_max": totals.maxima.item(),
        "correction/effective_sample_share": used**2 / (tokens * used_squared) if used_squared else 0.0,
        "correction/mismatch_kl_k3": k3 / tokens,
    }
    if config.kind == "tis":
        metrics["correction/share_truncated"] = affected / tokens
    elif config.kind != "none":
        metrics["correction/share_masked"] = affected / tokens
    return metrics
