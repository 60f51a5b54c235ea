"""Inputs and result of a token loss.

N counts the response tokens of a micro-batch laid end to end, without padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Bound on |logπ − logπ_old|: a ratio stays within e^±20, and no gradient flows beyond.
LOG_RATIO_LIMIT = 20.0
#: Bound on a log-probability or log-ratio that enters a sum; far beyond any real value.
LOGPROB_LIMIT = 1e8

# Keeps |A|·e^20 summed over a batch finite in float32. Real advantages are of order 1.
_ADVANTAGE_LIMIT = 1e20


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """Loss of each token, before aggregation.

    values  [N], with gradient
    gate    [N], no gradient, in [0, 1]: the share of the plain importance-weighted gradient −A·ρ·∇logπ that the token
            keeps; 1 at ρ = 1. Each loss defines its gate in its docstring. The overflow guards on logπ − logπ_old
            (±20; 10 for gspo) are not part of the gate.
    """

    values: Tensor
    gate: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTerms:
    """Inputs of one micro-batch, checked and in the dtype to compute in; each [N].

    logprobs       logπ, natural log; the only tensor with gradient, `ratio` aside
    old_logprobs   logπ_old
    advantages     A, per token
    sequence_ids   integers, which response a token belongs to
    ratio          ρ = exp(clamp(logπ − logπ_old, ±20)), with gradient
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    sequence_ids: Tensor
    ratio: Tensor


def log_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """clamp(logπ − logπ_old, ±20), of any shape."""
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def token_terms(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, sequence_ids: Tensor) -> TokenTerms:
    """Bring the inputs, each [N], to one dtype: float32, or float64 where logprobs is float64.

    Gradient flows through `logprobs` only. Raises ValueError where a shape differs.
    """
    shapes = {tuple(t.shape) for t in (logprobs, old_logprobs, advantages, sequence_ids)}
    if len(shapes) != 1 or logprobs.ndim != 1:
        raise ValueError(
            "logprobs, old_logprobs, advantages and sequence_ids must all be [N], got "
            f"{list(logprobs.shape)}, {list(old_logprobs.shape)}, {list(advantages.shape)}, {list(sequence_ids.shape)}"
        )
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    current = logprobs.to(dtype)
    old = old_logprobs.detach().to(dtype)
    return TokenTerms(
        logprobs=current,
        old_logprobs=old,
        advantages=advantages.detach().to(dtype).clamp(-_ADVANTAGE_LIMIT, _ADVANTAGE_LIMIT),
        sequence_ids=sequence_ids,
        ratio=log_ratio(current, old).exp(),
    )
