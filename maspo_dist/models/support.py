"""Which models the learner can train: what packing, its attention and its head assume of a model."""

from __future__ import annotations

import inspect

from torch import nn
from transformers import PreTrainedModel

from maspo_dist.config import ModelConfig

#: Settings by which some architectures change their logits after the head, which the learner's head does not.
_LOGIT_SETTINGS: dict[str, float | None] = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}
#: Kinds of layer in which a token sees other tokens by attention alone.
_PACKED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def training_obstacle(config: ModelConfig, model: PreTrainedModel) -> str | None:
    """Why the learner cannot train `model` (weights are not read), as a sentence for the user; None where it can."""
    reason = _reason(config, model)
    return None if reason is None else f"model.path {config.path}: a {type(model).__name__} {reason}"


def attends_by_bounds(model: PreTrainedModel) -> bool:
    """Whether the model passes its attention function all that it needs beside the bounds of packed sequences.

    Flash attention gets no mask either, so a model that supports it passes a sliding window as an argument.
    """
    return bool(model._supports_attention_backend and model._supports_flash_attn)


def _reason(config: ModelConfig, model: PreTrainedModel) -> str | None:
    settings = model.config.get_text_config()
    named = model.config.architectures or [type(model).__name__]
    if not isinstance(named, list):
        return f"needs a list of class names as architectures in config.json, not {named!r}"
    if type(model).__name__ not in named:
        return f"is not the {named[0]} that config.json names, which is no causal language model"
    if settings is not model.config or model.config.is_encoder_decoder:
        return "has parts beside its causal language model, which is not supported"
    if getattr(model.config, "quantization_config", None):
        return "has quantized weights, which cannot be trained: use the folder of the unquantized model"
    for name, neutral in _LOGIT_SETTINGS.items():
        if getattr(settings, name, None) not in (None, neutral):
            return f"changes its logits by {name}, which is not supported"
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or getattr(head, "bias", None) is not None:
        return "has no plain linear lm_head, which is not supported"
    if model._is_stateful or not _PACKED_LAYERS.issuperset(getattr(settings, "layer_types", None) or ()):
        return "has layers whose state would leak from one packed sequence into the next, which is not supported"
    if "position_ids" not in inspect.signature(model.get_decoder().forward).parameters:
        return "takes no position_ids, which keep packed sequences apart"
    if config.attention != "auto":
        return None
    if any(name.endswith("sinks") for name, _ in model.named_parameters()):
        return "has attention sinks, which model.attention auto does not support: set model.attention to eager"
    if getattr(settings, "attn_logit_softcapping", None) is not None:
        return "caps its attention scores, which model.attention auto does not support: set model.attention to eager"
    return None
