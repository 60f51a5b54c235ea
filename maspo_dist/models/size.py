"""The size of a model, for planning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """parameters: number of weights; layers, kv_heads, head_dim and context_tokens of its attention."""

    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    context_tokens: int
