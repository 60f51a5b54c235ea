"""The loss on plain padded tensors, for a trainer of your own."""

from __future__ import annotations

import torch
from torch import Tensor

from maspo_dist.algorithm.aggregate import aggregate
from maspo_dist.algorithm.losses.registry import token_loss
from maspo_dist.config import AggregateMode, LossConfig


def policy_loss(
    config: LossConfig,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    mode: AggregateMode = "token-mean",
    denominator: float | None = None,
) -> Tensor:
    """The loss of `config`, aggregated over the tokens that `mask` keeps; a scalar.

    In the default mode Σ ℓ over the kept tokens / denominator, with ℓ the token loss, for MASPO −A · w · ρ (formulas in
    `maspo_dist.algorithm.losses`). The other modes are those of `aggregate`.

    logprobs       [B, T] logπ of the response tokens, natural log, any floating dtype; carries the gradient
    old_logprobs   [B, T] logπ_old
    advantages     [B], one per response, or [B, T]
    mask           [B, T] bool or 0 and 1: the tokens that count. Other tokens may hold NaN; they get gradient 0
    denominator    tokens (or responses, by mode) of the whole optimizer step, over all ranks and micro-batches;
                   None: of this mask

    BAPO uses the bounds of `config`; move them first by `bapo_contributions` and `move_bounds`.
    Raises ValueError where a shape differs, there is no such mode or the denominator is not positive.
    """
    if logprobs.ndim != 2 or not logprobs.shape == old_logprobs.shape == mask.shape:
        raise ValueError(
            "logprobs, old_logprobs and mask must all be [B, T], got "
            f"{list(logprobs.shape)}, {list(old_logprobs.shape)}, {list(mask.shape)}"
        )
    if advantages.shape not in (logprobs.shape, logprobs.shape[:1]):
        raise ValueError(
            f"advantages must be [B] or [B, T] with [B, T] = {list(logprobs.shape)}, got {list(advantages.shape)}"
        )
    kept = mask.bool()
    per_token = advantages if advantages.ndim == 2 else advantages[:, None].expand_as(logprobs)
    rows = torch.arange(logprobs.shape[0], device=logprobs.device)[:, None].expand_as(logprobs)[kept]
    loss = token_loss(config, logprobs[kept], old_logprobs[kept], per_token[kept], rows)
    if denominator is None:
        counted = kept if mode == "token-mean" else kept.any(dim=1)
        denominator = max(1.0, float(counted.sum()))
    return aggregate(loss.values, rows, mode, denominator)
