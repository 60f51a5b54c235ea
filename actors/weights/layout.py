"""Tensors as bytes: their entries, their sizes, and where they start in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from actors.interfaces import TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT_BYTES = 64


def entry_of(name: str, tensor: Tensor) -> TensorEntry:
    return name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def size_bytes(entry: TensorEntry) -> int:
    import torch  # a worker receives weights without it

    _, dtype, shape = entry
    itemsize: int = getattr(torch, dtype).itemsize
    return math.prod(shape) * itemsize


def aligned(end: int) -> int:
    """The first place from `end` on where a tensor may start."""
    return -(-end // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def announced_bytes(entry: TensorEntry, name: str, tensor: Tensor) -> Tensor:
    """The bytes of `tensor`, u8, without a copy if it is contiguous. Raises ValueError when it is not `entry`."""
    import torch  # a worker receives weights without it

    if entry_of(name, tensor) != entry:
        raise ValueError(f"the learner has {entry_of(name, tensor)} where it announced {entry}")
    return tensor.detach().reshape(-1).view(torch.uint8)
