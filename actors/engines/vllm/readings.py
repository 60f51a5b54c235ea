"""What was read back from a vLLM worker process, beside what was published: rows of values as hashes."""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

#: Hash of what was read, and whether it is what was published.
Reading = tuple[str, bool]
#: By the name of the parameter.
Readings = dict[str, Reading]


def hash_rows(values: Tensor) -> Tensor:
    """A hash i64[N] of each row of values [N, C], exact in their bits; 0 for a row of zeros, such as padding."""
    exact = values.float().cpu()
    # A multiplication by 1 may flush what is not a normal number, and loses the sign of 0.
    exact = torch.where(exact.abs() < torch.finfo(torch.float32).tiny, 0.0, exact)
    return (exact.contiguous().view(torch.int32) * _row_weights(values.shape[1])).sum(1)


def reading(own: Tensor, published: Tensor) -> Reading:
    """Of hashes of rows: each of `own` is among `published`, but for rows of zeros, with which vLLM pads."""
    matches = torch.equal(own, published) or bool(torch.isin(own[own != 0], published).all())
    return _digest(own), matches


def strict_reading(own: Tensor, published: Tensor) -> Reading:
    """As `reading`, where rows of zeros are values like others."""
    return _digest(own), bool(torch.isin(own, published).all())


def _digest(own: Tensor) -> str:
    return hashlib.sha256(own.numpy().tobytes()).hexdigest()


@functools.cache
def _row_weights(columns: int) -> Tensor:
    """Odd, so that a change of any single value changes a row's hash."""
    return torch.randint(0, 1 << 62, (columns,), generator=torch.Generator().manual_seed(0)) * 2 + 1
