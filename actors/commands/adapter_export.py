"""The adapters of a checkpoint: merged into the weights of model.path, or in the two files that peft and vLLM load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from actors.engines.deepspeed.lora import A, B, lora_scale, merged
from actors.engines.deepspeed.policy import load_policy
from actors.engines.deepspeed.state import LearnerState, hugging_face_name
from maspo_dist.config import LoraConfig, TrainConfig
from maspo_dist.errors import ModelError

#: What peft puts before the name of a module.
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedWeights:
    """The weights of model.path, in memory, into which the adapters are merged one by one."""

    base: dict[str, Tensor]
    state: LearnerState
    scale: float

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.base.items()}

    def weight(self, name: str, dtype: torch.dtype) -> Tensor:
        """In the dtype of the run it is what engines got at this checkpoint."""
        layer, _, part = name.rpartition(".")
        # The wider of the two, so that numbers are rounded once.
        computed = torch.promote_types(self.base[name].dtype, dtype)
        weight = self.base[name].to(computed)
        if part == "weight" and layer + A in self.state.shapes:
            a, b = (self.state.weight(layer + end, computed) for end in (A, B))
            weight = merged(weight, a, b, self.scale)
        return weight.to(dtype)


def merge(config: TrainConfig, lora: LoraConfig, state: LearnerState) -> MergedWeights:
    """Raises ModelError if model.path does not load, or its layers differ from the layers that were trained."""
    policy = load_policy(config.model)
    base = {hugging_face_name(name): parameter.detach() for name, parameter in policy.named_parameters()}
    for layer in adapted(state):
        wanted = (state.shapes[layer + B][0], state.shapes[layer + A][1])
        weight = base.get(f"{layer}.weight")
        if weight is None or tuple(weight.shape) != wanted:
            raise ModelError(
                f"model.path {config.model.path} is not the model that was trained: {layer} differs; put it back"
            )
    return MergedWeights(base=base, state=state, scale=lora_scale(lora))


def adapted(state: LearnerState) -> Iterator[str]:
    """Full names of the layers that have adapters."""
    return (name.removesuffix(A) for name in state.shapes if name.endswith(A))


def write_adapter(folder: Path, config: TrainConfig, lora: LoraConfig, state: LearnerState, dtype: torch.dtype) -> None:
    """adapter_model.safetensors and adapter_config.json."""
    weights = {f"{_PEFT_PREFIX}{name}.weight": state.weight(name, dtype) for name in state.shapes}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.model.path,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in adapted(state)}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
