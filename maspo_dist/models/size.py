"""The size of a model, for planning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """parameters: number of weights; layers, kv_heads, head_dim and context_tokens of its attention."""

    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    context_tokens: int


#: Sizes of the models in the recipes, for a machine that cannot read their configurations.
KNOWN_SIZES: Mapping[str, ModelSize] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ModelSize(
        parameters=1_777_088_000, layers=28, kv_heads=2, head_dim=128, context_tokens=131_072
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": ModelSize(
        parameters=7_615_616_512, layers=28, kv_heads=4, head_dim=128, context_tokens=131_072
    ),
}
