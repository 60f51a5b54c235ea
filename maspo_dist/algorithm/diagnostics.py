"""What the trust region does, by sign of the advantage and by probability of the token under π_old.

`trust_region_totals` of every micro-batch add up, over ranks too; `trust_region_metrics` turns the sum into flat
numbers. Nothing here carries gradient, and `trust_region_totals` does not wait for the device.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from maspo_dist.algorithm.aggregate import Totals
from maspo_dist.algorithm.losses.maspo import trust_region
from maspo_dist.algorithm.losses.terms import LOG_RATIO_LIMIT, log_ratio
from maspo_dist.config import LossConfig, MaspoLoss

#: Upper edges of the π_old buckets, each included in its bucket; names as in the metrics.
BUCKETS = ("1e-4", "1e-2", "0.1", "0.5", "0.9", "1")
#: Signs of the advantage. A third sign, zero, is counted but has no buckets of its own.
SIGNS = ("pos", "neg")
#: Buckets of rare tokens: π_old ≤ 0.1.
_RARE = BUCKETS[:3]
#: ε of the plain PPO clipping that is reported for comparison.
PPO_EPSILON = 0.2

_INNER_EDGES = tuple(math.log(float(edge)) for edge in BUCKETS[:-1])


class _Column(IntEnum):
    """What is summed over tokens."""

    TOKENS = 0
    RATIO = 1
    GATE = 2
    GATE_BELOW_99 = 3
    GATE_BELOW_50 = 4
    WEIGHT = 5  # |A|·ρ
    WEIGHT_KEPT = 6  # |A|·ρ·gate
    WEIGHT_KEPT_BY_PPO = 7
    RATIO_OUTSIDE_PPO = 8
    CUT_BY_PPO = 9
    RATIO_AT_LIMIT = 10
    KL_K1 = 11
    KL_K3 = 12
    ENTROPY = 13
    GATED = 14
    MASS_AT_BASE = 15
    MASS_AT_MAX = 16
    RISK_AT_MIN = 17
    RISK_AT_MAX = 18
    CAPPED = 19


_C = _Column
#: (name over all tokens, name in a bucket if reported there, part, whole); a share is part / whole.
_SHARES = (
    ("ratio/mean", "ratio_mean", _C.RATIO, _C.TOKENS),
    ("ratio/share_outside_ppo_clip", None, _C.RATIO_OUTSIDE_PPO, _C.TOKENS),
    ("ratio/share_at_limit", None, _C.RATIO_AT_LIMIT, _C.TOKENS),
    ("gate/mean", "gate_mean", _C.GATE, _C.TOKENS),
    ("gate/share_below_0.99", "share_gate_below_0.99", _C.GATE_BELOW_99, _C.TOKENS),
    ("gate/share_below_0.5", "share_gate_below_0.5", _C.GATE_BELOW_50, _C.TOKENS),
    ("gradient/weight_kept", "weight_kept", _C.WEIGHT_KEPT, _C.WEIGHT),
    ("gradient/weight_kept_by_ppo_clip", None, _C.WEIGHT_KEPT_BY_PPO, _C.WEIGHT),
    ("gradient/share_cut_by_ppo_clip", "share_cut_by_ppo_clip", _C.CUT_BY_PPO, _C.TOKENS),
    ("policy/kl_k1", "kl_k1", _C.KL_K1, _C.TOKENS),
    ("policy/kl_k3", "kl_k3", _C.KL_K3, _C.TOKENS),
    ("policy/entropy", "entropy", _C.ENTROPY, _C.TOKENS),
)
#: Of MASPO alone: tokens on the gated side, those among them where a clamp binds, tokens at negative_ratio_cap.
_MASPO_SHARES = (
    ("gate/share_gated", "share_gated", _C.GATED, _C.TOKENS),
    ("gate/share_capped", None, _C.CAPPED, _C.TOKENS),
    ("gate/share_mass_at_sigma_base", "share_mass_at_sigma_base", _C.MASS_AT_BASE, _C.GATED),
    ("gate/share_mass_at_sigma_max", "share_mass_at_sigma_max", _C.MASS_AT_MAX, _C.GATED),
    ("gate/share_risk_at_min", "share_risk_at_min", _C.RISK_AT_MIN, _C.GATED),
    ("gate/share_risk_at_max", "share_risk_at_max", _C.RISK_AT_MAX, _C.GATED),
)


@torch.no_grad()
def trust_region_totals(
    config: LossConfig,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    gate: Tensor,
    entropy: Tensor,
) -> Totals:
    """Statistics of one micro-batch; all tensors [N], `gate` that of the TokenLoss, entropy in nats.

    sums f64[3 signs · 6 buckets, columns], maxima f64[2] = (max log ρ, −min log ρ).
    """
    delta = log_ratio(logprobs.double(), old_logprobs.double())
    ratio, advantage, old = delta.exp(), advantages.double(), old_logprobs.double()
    positive, negative = advantage > 0, advantage < 0
    at_limit = delta.abs() >= LOG_RATIO_LIMIT
    # Beyond the limit on log ρ no gradient flows, whatever the gate.
    kept = gate.double().masked_fill(at_limit, 0.0)
    weight = advantage.abs() * ratio
    above, below = ratio > 1 + PPO_EPSILON, ratio < 1 - PPO_EPSILON
    cut = (positive & above) | (negative & below)
    columns = delta.new_zeros(len(_Column), delta.numel())
    columns[_C.TOKENS] = 1.0
    columns[_C.RATIO] = ratio
    columns[_C.GATE] = gate
    columns[_C.GATE_BELOW_99] = gate < 0.99
    columns[_C.GATE_BELOW_50] = gate < 0.5
    columns[_C.WEIGHT] = weight
    columns[_C.WEIGHT_KEPT] = weight * kept
    columns[_C.WEIGHT_KEPT_BY_PPO] = weight.masked_fill(cut | at_limit, 0.0)
    columns[_C.RATIO_OUTSIDE_PPO] = above | below
    columns[_C.CUT_BY_PPO] = cut
    columns[_C.RATIO_AT_LIMIT] = at_limit
    columns[_C.KL_K1] = -delta
    columns[_C.KL_K3] = ratio - 1 - delta
    columns[_C.ENTROPY] = entropy
    if isinstance(config, MaspoLoss):
        region = trust_region(config, ratio, old, advantage)
        columns[_C.GATED] = region.gated
        columns[_C.MASS_AT_BASE] = region.gated & region.mass_at_base
        columns[_C.MASS_AT_MAX] = region.gated & region.mass_at_max
        columns[_C.RISK_AT_MIN] = region.gated & region.risk_at_min
        columns[_C.RISK_AT_MAX] = region.gated & region.risk_at_max
        if config.negative_ratio_cap is not None:
            columns[_C.CAPPED] = negative & (ratio > config.negative_ratio_cap)
    sign = torch.where(positive, 0, torch.where(negative, 1, 2))
    # torch.bucketize would copy the edges to the device and wait for it.
    bucket = torch.stack([old > edge for edge in _INNER_EDGES]).sum(0)
    sums = delta.new_zeros((len(SIGNS) + 1) * len(BUCKETS), len(_Column))
    ends = torch.cat((torch.stack((delta, -delta)), delta.new_full((2, 1), -math.inf)), dim=1)
    return Totals(sums=sums.index_add_(0, sign * len(BUCKETS) + bucket, columns.T), maxima=ends.amax(dim=1))


def trust_region_metrics(config: LossConfig, totals: Totals) -> dict[str, float]:
    """Flat numbers of an optimizer step or batch; empty if there were no tokens. ρ and gate as in TokenLoss.

    `maspo_dist.runs.catalogue` says what each number means. Shares are of response tokens unless it says otherwise. A
    bucket, trust_region/{pos|neg}/{upper edge}, has a token_share, and the other numbers only if it holds tokens.
    """
    rows = totals.sums.tolist()
    whole = [math.fsum(column) for column in zip(*rows, strict=True)]
    tokens = whole[_C.TOKENS]
    if tokens == 0:
        return {}
    shares = _SHARES + (_MASPO_SHARES if isinstance(config, MaspoLoss) else ())
    highest, lowest = totals.maxima.tolist()
    metrics = {"ratio/max": math.exp(highest), "ratio/min": math.exp(-lowest)}
    metrics |= {name: _share(whole, part, of) for name, _, part, of in shares}
    metrics["gradient/weight_lost"] = _weight_lost(whole)
    # Rows of the sign pos come first.
    rare = [math.fsum(column) for column in zip(*rows[: len(_RARE)], strict=True)]
    cut = rare[_C.WEIGHT] - rare[_C.WEIGHT_KEPT_BY_PPO]
    metrics["gradient/rare_positive_cut_by_ppo_clip"] = cut / whole[_C.WEIGHT] if whole[_C.WEIGHT] else 0.0
    for number, row in enumerate(rows[: len(SIGNS) * len(BUCKETS)]):
        sign, bucket = divmod(number, len(BUCKETS))
        prefix = f"trust_region/{SIGNS[sign]}/{BUCKETS[bucket]}"
        metrics[f"{prefix}/token_share"] = row[_C.TOKENS] / tokens
        if row[_C.TOKENS]:
            metrics |= {f"{prefix}/{name}": _share(row, part, of) for _, name, part, of in shares if name is not None}
            metrics[f"{prefix}/weight_lost"] = _weight_lost(row)
    return metrics


def _share(row: list[float], part: _Column, whole: _Column) -> float:
    """0 of an empty whole, so that every metric exists at every step."""
    return row[part] / row[whole] if row[whole] else 0.0


def _weight_lost(row: list[float]) -> float:
    return 1 - _share(row, _C.WEIGHT_KEPT, _C.WEIGHT) if row[_C.WEIGHT] else 0.0
