"""The size of a model, for planning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maspo_dist.config.learner import LoraConfig
from maspo_dist.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearKind:
    """`count` linear layers of the same name, such as q_proj, and shape."""

    name: str
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Number of weights, and what memory and cost depend on; hidden and intermediate are widths of a layer.

    intermediate      of all experts that compute a token, in a mixture of experts
    context_key       the setting of the model folder that bounds the context
    linear_layers     where adapters can be put
    idle_parameters   weights of experts that do not compute a token
    """

    parameters: int
    vocabulary: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    context_tokens: int
    context_key: str = "max_position_embeddings of config.json"
    linear_layers: tuple[LinearKind, ...] = ()
    idle_parameters: int = 0

    @property
    def active_parameters(self) -> int:
        """Weights that compute a token."""
        return self.parameters - self.idle_parameters

    @property
    def key_value_elements(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def head_shares(self) -> list[int]:
        """Numbers of processes among which the attention heads can be divided evenly.

        If there are fewer key-value heads than processes, each process computes with a copy of one.
        """
        divisors = (n for n in range(1, self.heads + 1) if self.heads % n == 0)
        return [n for n in divisors if self.kv_heads % n == 0 or n % self.kv_heads == 0]


def adapted_kinds(lora: LoraConfig, kinds: Sequence[LinearKind], path: str) -> list[LinearKind]:
    """Those of `kinds` that get an adapter. Raises ConfigError if a target of `lora` is none of them."""
    names = sorted({kind.name for kind in kinds})
    if not names:
        raise ConfigError(f"learner.lora: {path} has no linear layer that can have an adapter: remove learner.lora")
    unknown = sorted(set(lora.targets or ()) - set(names))
    if unknown:
        raise ConfigError(
            f"learner.lora.targets names {unknown[0]}, but {path} has no linear layer of that name: choose among "
            f"{', '.join(names)}"
        )
    return [kind for kind in kinds if lora.targets is None or kind.name in lora.targets]


def adapter_parameters(lora: LoraConfig, size: ModelSize, path: str) -> int:
    """Number of weights of all adapters. Raises as `adapted_kinds` does."""
    kinds = adapted_kinds(lora, size.linear_layers, path)
    return sum(kind.count * lora.rank * (kind.inputs + kind.outputs) for kind in kinds)


def _qwen_layers(layers: int, hidden: int, intermediate: int, kv: int) -> tuple[LinearKind, ...]:
    """Of a dense Qwen2; `kv` is the width of the keys."""
    shapes = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
    return tuple(LinearKind(name=name, inputs=i, outputs=o, count=layers) for name, (i, o) in shapes.items())


#: Sizes of the models in the recipes, for a machine that cannot read their configurations.
KNOWN_SIZES: Mapping[str, ModelSize] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ModelSize(
        parameters=1_777_088_000,
        vocabulary=151_936,
        layers=28,
        hidden=1536,
        intermediate=8960,
        heads=12,
        kv_heads=2,
        head_dim=128,
        context_tokens=131_072,
        linear_layers=_qwen_layers(28, 1536, 8960, 256),
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": ModelSize(
        parameters=7_615_616_512,
        vocabulary=152_064,
        layers=28,
        hidden=3584,
        intermediate=18_944,
        heads=28,
        kv_heads=4,
        head_dim=128,
        context_tokens=131_072,
        linear_layers=_qwen_layers(28, 3584, 18_944, 512),
    ),
}
