"""Sums that add up over micro-batches and ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Fixed-size statistics of a set of tokens.

    sums     float64, of fixed shape: all-reduce with SUM
    maxima   float64, of fixed shape: all-reduce with MAX (a minimum is kept as the maximum of its negation)
    """

    sums: Tensor
    maxima: Tensor

    def __add__(self, other: Totals) -> Totals:
        return Totals(sums=self.sums + other.sums, maxima=torch.maximum(self.maxima, other.maxima))
