"""The linear layers of a model, at which the learner can put adapters (`learner.lora`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from maspo_dist.models.size import LinearKind


def linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """(full name, layer) of every plain linear layer but the head. Fused experts and routers are no such layers."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        # A subclass may compute something else.
        if type(module) is nn.Linear and module is not head:
            yield name, module


def linear_kinds(model: PreTrainedModel) -> tuple[LinearKind, ...]:
    """The linear layers by their own names and shapes, in the model's order."""
    counts = Counter(
        (name.rpartition(".")[2], layer.in_features, layer.out_features) for name, layer in linear_layers(model)
    )
    return tuple(
        LinearKind(name=name, inputs=inputs, outputs=outputs, count=count)
        for (name, inputs, outputs), count in counts.items()
    )
