"""From token losses to a scalar, sums over the responses of a micro-batch, and sums over micro-batches.

A micro-batch holds whole responses. Sequence ids are any integers; tokens of a response need not lie together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from maspo_dist.config import AggregateMode

# The authors' code divides by length + 1e-8; results agree to the last digit.
_LENGTH_EPSILON = 1e-8
_MODES = get_args(AggregateMode)
_ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Statistics of a set of tokens, float64 and of fixed shapes: add up `sums`, take the largest of `maxima`.

    A minimum is kept as the maximum of its negation.
    """

    sums: Tensor
    maxima: Tensor

    def __add__(self, other: Totals) -> Totals:
        return Totals(sums=self.sums + other.sums, maxima=torch.maximum(self.maxima, other.maxima))


def aggregate(
    values: Tensor, sequence_ids: Tensor, mode: AggregateMode, denominator: float, part: slice = _ALL
) -> Tensor:
    """The share that a micro-batch has in the loss of an optimizer step; shares add up over micro-batches and ranks.

    token-mean            Σ_tokens value / denominator
    seq-mean-token-sum    Σ_sequences (Σ_tokens value) / denominator
    seq-mean-token-mean   Σ_sequences (Σ_tokens value / tokens of the sequence) / denominator

    values         [n], of the tokens `part`; n may be 0, which gives 0 with a gradient path
    sequence_ids   [N], of all tokens of the micro-batch
    denominator    of the whole optimizer step, over all ranks: response tokens for token-mean, else responses

    Returns a scalar in the dtype of `values`. Raises ValueError for another mode or a denominator that is not positive.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be {', '.join(_MODES[:-1])} or {_MODES[-1]}, got {mode!r}")
    if not denominator > 0:
        raise ValueError(f"denominator must be above 0, got {denominator}")
    if mode == "seq-mean-token-mean":
        index, lengths = _sequence_lengths(sequence_ids)
        values = values / (lengths.to(values.dtype) + _LENGTH_EPSILON)[index[part]]
    return values.sum() / denominator


def sequence_mean(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """Mean of `values` [N] over each response, at each of its tokens, [N]."""
    index, lengths = _sequence_lengths(sequence_ids)
    totals = values.new_zeros(lengths.shape).index_add(0, index, values)
    return totals[index] / lengths[index]


def sequence_sum(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """Sum of `values` [N] over each response, [S], in ascending order of sequence id. Waits for the device."""
    ids, index = torch.unique(sequence_ids, return_inverse=True)
    return values.new_zeros(ids.shape).index_add(0, index, values)


def _sequence_lengths(sequence_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which response each token belongs to, i64[N] in 0…S−1, and tokens of each response, i64[N]: 0 from S on.

    torch.unique would wait for the device to learn S.
    """
    ordered, order = sequence_ids.sort(stable=True)
    is_next = torch.cat((torch.zeros_like(ordered[:1], dtype=torch.bool), ordered[1:] != ordered[:-1]))
    index = torch.empty_like(order).scatter(0, order, is_next.cumsum(0))
    return index, torch.zeros_like(index).index_add(0, index, torch.ones_like(index))
