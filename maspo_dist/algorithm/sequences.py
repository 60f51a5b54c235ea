"""Sums and means over the responses of a micro-batch.

A response never straddles micro-batches, so its length is what the micro-batch holds of it.
Sequence ids are any integers; tokens of one response need not lie together.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_lengths(sequence_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which response each token belongs to, i64[N] in 0…S−1, and tokens of each response, i64[S]."""
    _, index, lengths = torch.unique(sequence_ids, return_inverse=True, return_counts=True)
    return index, lengths


def sequence_mean(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """Mean of `values` [N] over each response, given back to each of its tokens, [N]."""
    index, lengths = sequence_lengths(sequence_ids)
    totals = values.new_zeros(lengths.shape).index_add(0, index, values)
    return (totals / lengths)[index]


def sequence_sum(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """Sum of `values` [N] over each response, [S], in ascending order of sequence id."""
    index, lengths = sequence_lengths(sequence_ids)
    return values.new_zeros(lengths.shape).index_add(0, index, values)
