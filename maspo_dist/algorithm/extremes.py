"""The tokens with the largest and smallest ratio of a step, with where they stood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.terms import log_ratio

#: Tokens kept at each end.
KEPT = 8
_COLUMNS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExtreme:
    """One token: its ratio π / π_old, π_old, advantage and gate, and its place in the batch."""

    ratio: float
    old_probability: float
    advantage: float
    gate: float
    token_id: int
    position: int
    group_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioExtremes:
    """Fixed-size record, f64[8, 7] each end: gather `highest` and `lowest` over ranks, `merge`, `tokens`."""

    highest: Tensor
    lowest: Tensor

    def __add__(self, other: RatioExtremes) -> RatioExtremes:
        return RatioExtremes(
            highest=_largest(torch.cat((self.highest, other.highest)), sign=1.0),
            lowest=_largest(torch.cat((self.lowest, other.lowest)), sign=-1.0),
        )

    def tokens(self) -> tuple[tuple[TokenExtreme, ...], tuple[TokenExtreme, ...]]:
        """(highest first, lowest first); fewer than 8 where the step had fewer tokens."""
        return _read(self.highest), _read(self.lowest)


def empty_extremes(device: torch.device | str = "cpu") -> RatioExtremes:
    """No tokens: rows whose log-ratio can never be chosen."""
    rows = torch.zeros(KEPT, _COLUMNS, dtype=torch.float64, device=device)
    highest, lowest = rows.clone(), rows.clone()
    highest[:, 0], lowest[:, 0] = -math.inf, math.inf
    return RatioExtremes(highest=highest, lowest=lowest)


@torch.no_grad()
def ratio_extremes(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    gate: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    group_ids: Tensor,
) -> RatioExtremes:
    """Extremes of one micro-batch, all inputs [N], of any dtype; `positions` count from 0 within the response.

    Ordered by log ρ = clamp(logπ − logπ_old, ±20); integers are kept in float64, exact up to 2^53.
    """
    columns = (
        log_ratio(logprobs.double(), old_logprobs.double()),
        old_logprobs,
        advantages,
        gate,
        token_ids,
        positions,
        group_ids,
    )
    rows = torch.stack([column.double() for column in columns], dim=1)
    return empty_extremes(rows.device) + RatioExtremes(highest=rows, lowest=rows)


def _largest(rows: Tensor, sign: float) -> Tensor:
    return rows[torch.topk(sign * rows[:, 0], KEPT).indices]


def _read(rows: Tensor) -> tuple[TokenExtreme, ...]:
    return tuple(
        TokenExtreme(
            ratio=math.exp(row[0]),
            old_probability=math.exp(row[1]),
            advantage=row[2],
            gate=row[3],
            token_id=int(row[4]),
            position=int(row[5]),
            group_id=int(row[6]),
        )
        for row in rows.tolist()
        if math.isfinite(row[0])
    )
