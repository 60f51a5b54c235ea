"""The size of a model, for planning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Number of weights, and what memory and cost depend on; hidden and intermediate are widths of a layer.

    `context_key` names the setting of the model folder that bounds the context.
    """

    parameters: int
    vocabulary: int
    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    context_tokens: int
    context_key: str = "max_position_embeddings of config.json"

    @property
    def key_value_elements(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


#: Sizes of the models in the recipes, for a machine that cannot read their configurations.
KNOWN_SIZES: Mapping[str, ModelSize] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ModelSize(
        parameters=1_777_088_000,
        vocabulary=151_936,
        layers=28,
        hidden=1536,
        intermediate=8960,
        kv_heads=2,
        head_dim=128,
        context_tokens=131_072,
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": ModelSize(
        parameters=7_615_616_512,
        vocabulary=152_064,
        layers=28,
        hidden=3584,
        intermediate=18_944,
        kv_heads=4,
        head_dim=128,
        context_tokens=131_072,
    ),
}
