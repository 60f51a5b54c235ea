"""Low-rank adapters (LoRA): frozen linear layers, each with the product of two small trained matrices beside it.

    y = W·x + b + s·B·(A·x)        s = alpha / rank; at first A [rank, in] is random and B [out, rank] is 0

Engines get W + s·B·A under the layer's own name, in the model's dtype: see `weights`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from actors.engines.deepspeed.micro_batch import ForwardTensors
from actors.engines.deepspeed.policy import Policy
from maspo_dist.config import LoraConfig
from maspo_dist.models.linear_layers import linear_kinds, linear_layers
from maspo_dist.models.size import adapted_kinds

#: Ends of the names of an adapter's parameters.
A, B = ".lora_A", ".lora_B"


class LoraLinear(nn.Module):
    """Replaces a linear layer; W and b keep their names.

    All parameters are the module's own, so that ZeRO-3 gathers them together, whether the adapter is on or off.
    """

    def __init__(self, layer: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = lora_scale(config)
        self.is_on = True
        # As peft draws it: uniform in ±1/√in.
        a = torch.rand(config.rank, layer.in_features, generator=generator)
        a = (2 * a - 1) * layer.in_features**-0.5
        self.lora_A = nn.Parameter(a.to(layer.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, config.rank, dtype=layer.weight.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        output = linear(inputs, self.weight, self.bias)
        if not self.is_on:
            return output
        return output + linear(linear(inputs, self.lora_A), self.lora_B) * self.scale


class WithoutAdapters:
    """The policy's `model` with its adapters off: the model of `model.path`, without a copy of its weights."""

    def __init__(self, model: Any, policy: Policy) -> None:
        self._model = model
        self._layers = [module for module in policy.modules() if isinstance(module, LoraLinear)]

    def __call__(self, tokens: ForwardTensors, temperature: float) -> Any:
        """As `Policy.forward`, for a forward without gradient."""
        self._switch(is_on=False)
        try:
            return self._model(tokens=tokens, temperature=temperature)
        finally:
            self._switch(is_on=True)

    def _switch(self, *, is_on: bool) -> None:
        for layer in self._layers:
            layer.is_on = is_on


def lora_scale(config: LoraConfig) -> float:
    return config.alpha / config.rank


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale·B·A, added in float32 and rounded to the dtype of W. It is W to the last bit while B is 0."""
    return torch.addmm(weight.detach().float(), b.detach().float(), a.detach().float(), alpha=scale).to(weight.dtype)


def add_adapters(policy: Policy, config: LoraConfig, path: str, seed: int) -> list[nn.Parameter]:
    """Freezes `policy`, puts adapters at the layers that `config` names, and returns the adapters' parameters.

    The same seed draws the same adapters. From then on, the state dict of `policy` holds its adapters alone. Raises
    ConfigError for a target that `policy` lacks; `path` is its model.path.
    """
    model = policy.causal_lm
    model.requires_grad_(False)
    names = {kind.name for kind in adapted_kinds(config, linear_kinds(model), path)}
    generator = torch.Generator().manual_seed(seed)
    for name, layer in list(linear_layers(model)):
        above, _, own_name = name.rpartition(".")
        if own_name in names:
            setattr(model.get_submodule(above), own_name, LoraLinear(layer, config, generator))
    policy.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def _drop_frozen(policy: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """DeepSpeed would drop a tied weight under its first name only."""
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            state.pop(prefix + name, None)
