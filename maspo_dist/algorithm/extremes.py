"""The tokens with the largest and the smallest ratio of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.terms import log_ratio


@torch.no_grad()
def ratio_extremes(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    gate: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    group_ids: Tensor,
) -> Tensor:
    """The two tokens of one micro-batch, f64[2, 7]: largest ρ, then smallest. Does not wait for the device.

    All inputs are [N], of any dtype; `positions` count from 0 within the response. A row holds log ρ =
    clamp(logπ − logπ_old, ±20), negated in the second row, then the other inputs from `old_logprobs` on; integers are
    exact up to 2^53. Without tokens log ρ is −inf.
    """
    delta = log_ratio(logprobs.double(), old_logprobs.double())
    columns = (old_logprobs, advantages, gate, token_ids, positions, group_ids)
    rest = [column.double() for column in columns]
    rows = torch.stack([torch.stack([end, *rest], dim=1) for end in (delta, -delta)], dim=1)
    return merge_extremes(torch.cat((rows.new_full((1, 2, 7), -math.inf), rows)))


def merge_extremes(parts: Tensor) -> Tensor:
    """The two tokens of all micro-batches or ranks, whose tokens are `parts` f64[K, 2, 7]; f64[2, 7]."""
    return parts[parts[..., 0].argmax(0), torch.arange(2, device=parts.device)]


def extreme_metrics(extremes: Tensor) -> dict[str, float]:
    """Flat numbers of the two tokens f64[2, 7]; empty if there were no tokens."""
    metrics: dict[str, float] = {}
    for end, sign, row in zip(("max", "min"), (1, -1), extremes.tolist(), strict=True):
        if math.isfinite(row[0]):
            values = (math.exp(sign * row[0]), math.exp(row[1]), *row[2:])
            names = ("ratio", "old_probability", "advantage", "gate", "token_id", "position", "group_id")
            metrics |= {f"ratio/{end}_token/{name}": value for name, value in zip(names, values, strict=True)}
    return metrics
