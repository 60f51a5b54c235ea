"""What the trust region does, by sign of the advantage and by probability of the token under π_old.

`trust_region_totals` of every micro-batch add up (`+` over micro-batches, all-reduce over ranks);
`trust_region_metrics` turns the sum into flat numbers. Nothing here carries gradient or waits for
the device.
"""

from __future__ import annotations

import math
from enum import IntEnum, auto

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.maspo import trust_region
from maspo_dist.algorithm.losses.terms import LOG_RATIO_LIMIT, log_ratio
from maspo_dist.algorithm.totals import Totals
from maspo_dist.config import LossConfig, MaspoLoss

#: Upper edges of the π_old buckets, each included in its bucket; names as in the metrics.
BUCKETS = ("1e-4", "1e-2", "0.1", "0.5", "0.9", "1")
#: Signs of the advantage. A third one, zero, is counted but has no buckets of its own.
SIGNS = ("pos", "neg")
#: ε of the plain PPO clipping that is reported for comparison.
PPO_EPSILON = 0.2

_INNER_EDGES = tuple(math.log(float(edge)) for edge in BUCKETS[:-1])
_ROWS = 3 * len(BUCKETS)


class _Column(IntEnum):
    """What is summed over tokens, one column each."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[int]) -> int:
        return count

    TOKENS = auto()
    RATIO = auto()
    GATE = auto()
    GATE_BELOW_99 = auto()
    GATE_BELOW_50 = auto()
    WEIGHT = auto()  # |A|·ρ
    WEIGHT_KEPT = auto()  # |A|·ρ·gate
    WEIGHT_KEPT_BY_PPO = auto()
    RATIO_OUTSIDE_PPO = auto()
    CUT_BY_PPO = auto()
    RATIO_AT_LIMIT = auto()
    KL_K1 = auto()
    KL_K3 = auto()
    ENTROPY = auto()
    GATED = auto()
    MASS_AT_BASE = auto()
    MASS_AT_MAX = auto()
    RISK_AT_MIN = auto()
    RISK_AT_MAX = auto()
    CAPPED = auto()


_CLAMPS = {
    "share_mass_at_sigma_base": _Column.MASS_AT_BASE,
    "share_mass_at_sigma_max": _Column.MASS_AT_MAX,
    "share_risk_at_min": _Column.RISK_AT_MIN,
    "share_risk_at_max": _Column.RISK_AT_MAX,
}


def empty_trust_region(device: torch.device | str = "cpu") -> Totals:
    """Totals of no tokens at all."""
    return Totals(
        sums=torch.zeros(_ROWS, len(_Column), dtype=torch.float64, device=device),
        maxima=torch.full((2,), -math.inf, dtype=torch.float64, device=device),
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
    columns = torch.zeros(len(_Column), delta.numel(), dtype=torch.float64, device=delta.device)
    columns[_Column.TOKENS] = 1.0
    columns[_Column.RATIO] = ratio
    columns[_Column.GATE] = gate
    columns[_Column.GATE_BELOW_99] = gate < 0.99
    columns[_Column.GATE_BELOW_50] = gate < 0.5
    columns[_Column.WEIGHT] = weight
    columns[_Column.WEIGHT_KEPT] = weight * kept
    columns[_Column.WEIGHT_KEPT_BY_PPO] = weight.masked_fill(cut | at_limit, 0.0)
    columns[_Column.RATIO_OUTSIDE_PPO] = above | below
    columns[_Column.CUT_BY_PPO] = cut
    columns[_Column.RATIO_AT_LIMIT] = at_limit
    columns[_Column.KL_K1] = -delta
    columns[_Column.KL_K3] = ratio - 1 - delta
    columns[_Column.ENTROPY] = entropy
    if isinstance(config, MaspoLoss):
        _fill_clamps(columns, config, ratio, old, advantage)
    sign = torch.where(positive, 0, torch.where(negative, 1, 2))
    # Not bucketize, whose edges would have to be copied to the device, which waits for it.
    bucket = torch.stack([old > edge for edge in _INNER_EDGES]).sum(0)
    totals = empty_trust_region(delta.device)
    totals.sums.index_add_(0, sign * len(BUCKETS) + bucket, columns.T)
    extremes = torch.cat((torch.stack((delta, -delta)), totals.maxima[:, None]), dim=1).amax(dim=1)
    return Totals(sums=totals.sums, maxima=extremes)


def _fill_clamps(columns: Tensor, config: MaspoLoss, ratio: Tensor, old_logprobs: Tensor, advantages: Tensor) -> None:
    region = trust_region(config, ratio, old_logprobs, advantages)
    columns[_Column.GATED] = region.gated
    columns[_Column.MASS_AT_BASE] = region.gated & region.mass_at_base
    columns[_Column.MASS_AT_MAX] = region.gated & region.mass_at_max
    columns[_Column.RISK_AT_MIN] = region.gated & region.risk_at_min
    columns[_Column.RISK_AT_MAX] = region.gated & region.risk_at_max
    if config.negative_ratio_cap is not None:
        columns[_Column.CAPPED] = (advantages < 0) & (ratio > config.negative_ratio_cap)


def _share(row: list[float], part: _Column, whole: _Column) -> float:
    # An empty whole has lost nothing and holds nothing: 0, so that every name is there each step.
    return row[part] / row[whole] if row[whole] else 0.0


def trust_region_metrics(config: LossConfig, totals: Totals) -> dict[str, float]:
    """Flat numbers of one optimizer step or batch; empty where there were no tokens.

    All shares are of response tokens unless said otherwise; ρ and gate as in TokenLoss.

    ratio/max, min, mean                    ρ = π / π_old, of tokens
    ratio/share_outside_ppo_clip            ρ outside [0.8, 1.2], whatever the advantage
    ratio/share_at_limit                    |log ρ| ≥ 20, where the overflow guard stops the gradient
    gate/mean, share_below_0.99, share_below_0.5
    gradient/weight_kept, weight_lost       Σ|A|·ρ·gate / Σ|A|·ρ, and 1 minus it
    gradient/weight_kept_by_ppo_clip        the same, had plain PPO clipping (0.2) been used
    gradient/share_cut_by_ppo_clip          tokens whose gradient plain PPO clipping would have cut
    policy/kl_k1, policy/kl_k3              estimates of KL(π_old ‖ π): mean −log ρ, mean ρ − 1 − log ρ
    policy/entropy                          mean, nats
    gate/share_gated                        maspo: tokens on the gated side
    gate/share_mass_at_sigma_base, share_mass_at_sigma_max, share_risk_at_min, share_risk_at_max
                                            maspo: of the gated tokens, those where the clamp binds
    gate/share_capped                       maspo: tokens at negative_ratio_cap

    trust_region/{pos|neg}/{upper edge}/…   token_share; and where tokens are: ratio_mean, gate_mean,
        share_gate_below_0.99, share_gate_below_0.5, weight_kept, weight_lost, share_cut_by_ppo_clip,
        kl_k1, kl_k3, entropy, and for maspo share_gated and the four clamps
    """
    rows = totals.sums.tolist()
    whole = [math.fsum(column) for column in zip(*rows, strict=True)]
    tokens = whole[_Column.TOKENS]
    if tokens == 0:
        return {}
    highest, lowest = totals.maxima.tolist()
    kept = _share(whole, _Column.WEIGHT_KEPT, _Column.WEIGHT)
    metrics = {
        "ratio/max": math.exp(highest),
        "ratio/min": math.exp(-lowest),
        "ratio/mean": whole[_Column.RATIO] / tokens,
        "ratio/share_outside_ppo_clip": whole[_Column.RATIO_OUTSIDE_PPO] / tokens,
        "ratio/share_at_limit": whole[_Column.RATIO_AT_LIMIT] / tokens,
        "gate/mean": whole[_Column.GATE] / tokens,
        "gate/share_below_0.99": whole[_Column.GATE_BELOW_99] / tokens,
        "gate/share_below_0.5": whole[_Column.GATE_BELOW_50] / tokens,
        "gradient/weight_kept": kept,
        "gradient/weight_lost": 1 - kept if whole[_Column.WEIGHT] else 0.0,
        "gradient/weight_kept_by_ppo_clip": _share(whole, _Column.WEIGHT_KEPT_BY_PPO, _Column.WEIGHT),
        "gradient/share_cut_by_ppo_clip": whole[_Column.CUT_BY_PPO] / tokens,
        "policy/kl_k1": whole[_Column.KL_K1] / tokens,
        "policy/kl_k3": whole[_Column.KL_K3] / tokens,
        "policy/entropy": whole[_Column.ENTROPY] / tokens,
    }
    is_maspo = isinstance(config, MaspoLoss)
    if is_maspo:
        metrics["gate/share_gated"] = whole[_Column.GATED] / tokens
        metrics["gate/share_capped"] = whole[_Column.CAPPED] / tokens
        for name, column in _CLAMPS.items():
            metrics[f"gate/{name}"] = _share(whole, column, _Column.GATED)
    for number, row in enumerate(rows[: len(SIGNS) * len(BUCKETS)]):
        sign, bucket = divmod(number, len(BUCKETS))
        prefix = f"trust_region/{SIGNS[sign]}/{BUCKETS[bucket]}"
        metrics[f"{prefix}/token_share"] = row[_Column.TOKENS] / tokens
        if row[_Column.TOKENS]:
            metrics.update({f"{prefix}/{name}": value for name, value in _bucket_metrics(row, is_maspo).items()})
    return metrics


def _bucket_metrics(row: list[float], is_maspo: bool) -> dict[str, float]:
    tokens = row[_Column.TOKENS]
    kept = _share(row, _Column.WEIGHT_KEPT, _Column.WEIGHT)
    metrics = {
        "ratio_mean": row[_Column.RATIO] / tokens,
        "gate_mean": row[_Column.GATE] / tokens,
        "share_gate_below_0.99": row[_Column.GATE_BELOW_99] / tokens,
        "share_gate_below_0.5": row[_Column.GATE_BELOW_50] / tokens,
        "weight_kept": kept,
        "weight_lost": 1 - kept if row[_Column.WEIGHT] else 0.0,
        "share_cut_by_ppo_clip": row[_Column.CUT_BY_PPO] / tokens,
        "kl_k1": row[_Column.KL_K1] / tokens,
        "kl_k3": row[_Column.KL_K3] / tokens,
        "entropy": row[_Column.ENTROPY] / tokens,
    }
    if is_maspo:
        metrics["share_gated"] = row[_Column.GATED] / tokens
        metrics.update({name: _share(row, column, _Column.GATED) for name, column in _CLAMPS.items()})
    return metrics
