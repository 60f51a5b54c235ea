"""The section `model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from maspo_dist.config.section import Execution, Location, Meaning, PathText, Section


class ModelConfig(Section):
    """The policy."""

    #: Folder (or hub name, where the hub can be reached) with config, weights and tokenizer.
    path: Location[PathText]
    #: Type of weights and activations; optimizer state and loss are float32 in both cases.
    dtype: Meaning[Literal["bfloat16", "float32"]] = "bfloat16"
    #: Where learner and engines compute; auto takes the GPU if there is one.
    device: Execution[Literal["auto", "cpu", "cuda"]] = "auto"
    #: Attention of the learner. auto: over the bounds of packed sequences where the model supports it, which costs the
    #: sum of squared lengths; else what transformers chooses, with a mask that costs the square of a micro-batch.
    attention: Execution[Literal["auto", "sdpa", "flash_attention_2", "eager"]] = "auto"
    #: Run model code that comes with the weights.
    trust_remote_code: Execution[bool] = False

    @model_validator(mode="after")
    def _flash_attention_is_in_bfloat16(self) -> ModelConfig:
        if self.attention == "flash_attention_2" and self.dtype == "float32":
            raise ValueError(
                "attention is flash_attention_2, which does not compute in float32, but dtype is float32: set "
                "attention to auto, or dtype to bfloat16"
            )
        return self


def refuse_keys(section: str, value: dict[str, Any], owners: Mapping[str, str]) -> None:
    """Raises ValueError if `value` holds a key of `owners`, naming the key that sets it."""
    for key in value:
        if key in owners:
            raise ValueError(f"{section}.{key} is set by {owners[key]}; remove it here")
