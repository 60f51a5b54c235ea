"""The policy's weights as engines get them, under Hugging Face names and whole: all with adapters merged in, or the
adapters alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

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

W = TypeVar("W", bound="PublishedWeight")


class PublishedWeight(Protocol):
    """A tensor that engines get; `entry` is known also where the parameters are not whole."""

    @property
    def name(self) -> str: ...

    @property
    def entry(self) -> TensorEntry:
        """(name, dtype, shape) of `value`."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What must be whole for `value`."""

    def value(self) -> Tensor:
        """In the model's dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWeight:
    """A weight of the model. `layer` is set where an adapter belongs to it."""

    name: str
    parameter: nn.Parameter
    layer: LoraLinear | None

    @property
    def entry(self) -> TensorEntry:
        return _entry(self.name, self.parameter)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter] if self.layer is None else [self.parameter, self.layer.lora_A, self.layer.lora_B]

    def value(self) -> Tensor:
        layer = self.layer
        if layer is None:
            return self.parameter.data
        return merged(self.parameter, layer.lora_A, layer.lora_B, layer.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWeight:
    """A of an adapter, or B times `scale`, which is alpha / rank."""

    name: str
    parameter: nn.Parameter
    scale: float = 1.0

    @property
    def entry(self) -> TensorEntry:
        return _entry(self.name, self.parameter)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter]

    def value(self) -> Tensor:
        values = self.parameter.data
        return values if self.scale == 1 else (values.float() * self.scale).to(values.dtype)


def adapter_weights(policy: Policy) -> Iterator[AdapterWeight]:
    """`<layer>.lora_A.weight` and `<layer>.lora_B.weight` of each adapter, in the model's order."""
    for name, module in policy.named_modules():
        if isinstance(module, LoraLinear):
            layer = hugging_face_name(name)
            yield AdapterWeight(name=f"{layer}.lora_A.weight", parameter=module.lora_A)
            yield AdapterWeight(name=f"{layer}.lora_B.weight", parameter=module.lora_B, scale=module.scale)


def policy_weights(policy: Policy) -> Iterator[PolicyWeight]:
    """In the model's order, tied weights once."""
    for name, parameter in policy.named_parameters():
        owner = policy.get_submodule(name.rpartition(".")[0])
        layer = owner if isinstance(owner, LoraLinear) and parameter is not owner.bias else None
        if layer is None or parameter is layer.weight:
            yield PolicyWeight(name=hugging_face_name(name), parameter=parameter, layer=layer)


def whole_weights(weights: Iterable[W], gather: Gather) -> Iterator[W]:
    """`weights`, each whole until the next is asked for. Under ZeRO-3 all ranks must iterate together."""
    waiting: list[W] = []
    elements = 0
    for weight in weights:
        waiting.append(weight)
        elements += sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in weight.parameters)
        if elements >= _GATHERED_ELEMENTS:
            yield from _gathered(waiting, gather)
            waiting, elements = [], 0
    yield from _gathered(waiting, gather)


def _entry(name: str, parameter: nn.Parameter) -> TensorEntry:
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return name, str(parameter.dtype).removeprefix("torch."), tuple(shape)


def _gathered(weights: list[W], gather: Gather) -> Iterator[W]:
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
