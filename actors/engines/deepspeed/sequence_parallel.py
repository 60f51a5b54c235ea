"""Sequence parallelism (Ulysses, arXiv 2309.14509): n ranks share the tokens of each micro-batch.

    layers, head   rank r holds tokens r·P/n to (r+1)·P/n of the P packed tokens
    attention      all-to-all → all tokens of 1/n of the heads → attention → all-to-all back
    values         log-probabilities and entropies of all targets on every rank; gradient reaches the rank's own

Each rank then computes the objective of the whole micro-batch, so no part of the objective knows of the division. Its
gradient on a rank is the derivative by the rank's own values, and the sum over ranks is the whole gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True, kw_only=True)
class RankGroups:
    """The process groups of a rank among `size` ranks that share sequences.

    index      place of the rank among them
    sequence   these ranks; None where size is 1
    data       ranks that together hold each response once: one of each sequence group; None for all ranks
    """

    size: int
    index: int
    sequence: dist.ProcessGroup | None
    data: dist.ProcessGroup | None


#: Of a rank that shares no sequence.
ALONE = RankGroups(size=1, index=0, sequence=None, data=None)


def rank_groups(size: int, rank: int, world_size: int, timeout: timedelta) -> RankGroups:
    """Collective over all ranks. Neighbouring ranks share sequences; `world_size` is a multiple of `size`."""
    if size == 1:
        return ALONE
    sequences = [dist.new_group(range(first, first + size), timeout) for first in range(0, world_size, size)]
    data = [dist.new_group(range(index, world_size, size), timeout) for index in range(size)]
    return RankGroups(size=size, index=rank % size, sequence=sequences[rank // size], data=data[rank % size])


# DeepSpeed's UlyssesSPAttentionHF does the same exchange, but it gathers the positions in every layer, which the bounds
# of packed sequences replace, needs the model's heads beforehand, and refuses values of another width than keys.
def whole_sequences(heads: Tensor, groups: RankGroups) -> Tensor:
    """[1, h, P/n, d] of the rank's tokens → [1, h/n, P, d] of all tokens; heads fewer than n are repeated first."""
    size = groups.size
    if heads.shape[1] < size:
        heads = heads.repeat_interleave(size // heads.shape[1], dim=1)
    _, count, tokens, width = heads.shape
    exchanged: Tensor = _AllToAll.apply(heads.view(size, count // size, tokens, width), groups.sequence)  # type: ignore[no-untyped-call]
    return exchanged.transpose(0, 1).reshape(1, count // size, size * tokens, width)


def own_tokens(output: Tensor, groups: RankGroups) -> Tensor:
    """[1, P, h/n, d] of all tokens → [1, P/n, h, d] of the rank's tokens."""
    size = groups.size
    _, tokens, count, width = output.shape
    exchanged: Tensor = _AllToAll.apply(output.view(size, tokens // size, count, width), groups.sequence)  # type: ignore[no-untyped-call]
    return exchanged.transpose(0, 1).reshape(1, tokens // size, size * count, width)


def whole_values(values: Tensor, own: slice, count: int, groups: RankGroups) -> Tensor:
    """[..., n] of the rank's tokens → [..., `count`] of all ranks, which hold `own` of them; gradient reaches `own`."""
    whole: Tensor = _Whole.apply(values, own, count, groups.sequence)  # type: ignore[no-untyped-call]
    return whole


class _AllToAll(torch.autograd.Function):
    """Part i of rank j becomes part j of rank i; so it is with the gradient."""

    @staticmethod
    def forward(context: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        context.group = group
        return _exchanged(parts, group)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _exchanged(gradient, context.group), None


def _exchanged(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = parts.contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, own: slice, count: int, group: dist.ProcessGroup) -> Tensor:
        context.own = own
        whole = values.new_zeros(*values.shape[:-1], count)
        whole[..., own] = values
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient[..., context.own], None, None, None
