"""The policy's weights as engines get them: under Hugging Face names, whole, with adapters merged in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actors.engines.deepspeed.lora import LoraLinear, merged
from actors.engines.deepspeed.policy import Policy
from actors.engines.deepspeed.state import hugging_face_name
from actors.interfaces import TensorEntry

#: Elements that are gathered at a time under ZeRO-3.
_GATHERED_ELEMENTS = 1 << 28

#: Makes parameters whole for as long as the block lasts.
Gather = Callable[[list[nn.Parameter]], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWeight:
    """A weight that engines have. `layer` is set where an adapter belongs to it."""

    name: str
    parameter: nn.Parameter
    layer: LoraLinear | None

    @property
    def entry(self) -> TensorEntry:
        """(name, dtype, shape) of `value`, also where the parameter is not whole."""
        shape = getattr(self.parameter, "ds_shape", self.parameter.shape)
        return self.name, str(self.parameter.dtype).removeprefix("torch."), tuple(shape)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What must be whole for `value`."""
        return [self.parameter] if self.layer is None else [self.parameter, self.layer.lora_A, self.layer.lora_B]

    def value(self) -> Tensor:
        """In the model's dtype."""
        layer = self.layer
        if layer is None:
            return self.parameter.data
        return merged(self.parameter, layer.lora_A, layer.lora_B, layer.scale)


def policy_weights(policy: Policy) -> Iterator[PolicyWeight]:
    """In the model's order, tied weights once."""
    for name, parameter in policy.named_parameters():
        owner = policy.get_submodule(name.rpartition(".")[0])
        layer = owner if isinstance(owner, LoraLinear) and parameter is not owner.bias else None
        if layer is None or parameter is layer.weight:
            yield PolicyWeight(name=hugging_face_name(name), parameter=parameter, layer=layer)


def whole_weights(weights: Iterable[PolicyWeight], gather: Gather) -> Iterator[PolicyWeight]:
    """`weights`, each whole until the next is asked for. Under ZeRO-3 all ranks must iterate together."""
    waiting: list[PolicyWeight] = []
    elements = 0
    for weight in weights:
        waiting.append(weight)
        elements += sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in weight.parameters)
        if elements >= _GATHERED_ELEMENTS:
            yield from _gathered(waiting, gather)
            waiting, elements = [], 0
    yield from _gathered(waiting, gather)


def _gathered(weights: list[PolicyWeight], gather: Gather) -> Iterator[PolicyWeight]:
    with gather([parameter for weight in weights for parameter in weight.parameters]):
        yield from weights


def lost_share(weights: Iterable[PolicyWeight]) -> float:
    """Share of the adapters' products that rounding to the model's dtype takes away: ‖(W' − W) − s·B·A‖ / ‖s·B·A‖.

    W' is what `value` gives. Takes whole weights; those without an adapter do not count. 0 while all products are 0.
    """
    squares = [_squares(weight, weight.layer) for weight in weights if weight.layer is not None]
    lost, product = torch.stack(squares).sum(0).tolist()
    return math.sqrt(lost / product) if product else 0.0


def _squares(weight: PolicyWeight, layer: LoraLinear) -> Tensor:
    """f32[2]: ‖(W' − W) − s·B·A‖² and ‖s·B·A‖²."""
    product = layer.scale * (layer.lora_B.detach().float() @ layer.lora_A.detach().float())
    arrived = weight.value().float() - weight.parameter.detach().float()
    return torch.stack(((arrived - product).square().sum(), product.square().sum()))
