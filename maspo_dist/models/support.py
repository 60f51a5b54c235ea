"""Which models the engine can serve, and which the learner can train: what packing, attention and head assume."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from maspo_dist.config import ModelConfig

#: Settings by which some architectures change their logits after the head, which the learner's head does not.
_LOGIT_SETTINGS: dict[str, float | None] = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}
#: Kinds of layer in which a token sees other tokens by attention alone.
_PACKED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
#: Kinds of rotary embedding that look at the largest position of a forward, which differs between ranks.
_ROPE_BY_LENGTH = ("dynamic", "longrope")
#: Ends of the names of classes that generate no text.
_NOT_GENERATING = ("Classification", "ForMaskedLM", "QuestionAnswering", "MultipleChoice", "RewardModel")
#: Kinds of model to which vLLM gives windows in all layers or in none.
_WINDOWS_IN_ALL_OR_NONE = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")


def engine_obstacle(settings: Any) -> str | None:
    """Why vLLM cannot serve the model of the config.json `settings`, as the end of a sentence; None where it can."""
    names = settings.architectures
    if not names:
        return "config.json names no architectures, so vLLM cannot tell what it is"
    if isinstance(names, list) and str(names[0]).endswith(_NOT_GENERATING):
        return f"config.json names the class {names[0]}, which is no causal language model"
    text = settings.get_text_config()
    if text.num_hidden_layers < 1:
        return f"config.json says that it has {text.num_hidden_layers} layers"
    kinds = set(getattr(text, "layer_types", None) or ())
    if settings.model_type in _WINDOWS_IN_ALL_OR_NONE and len(kinds) > 1:
        return (
            f"only some layers of a {names[0]} have a sliding window, which vLLM does not support: set "
            "use_sliding_window to false in config.json"
        )
    return None


def training_obstacle(config: ModelConfig, model: PreTrainedModel) -> str | None:
    """Why the learner cannot train `model` (weights are not read), as a sentence for the user; None where it can."""
    reason = _reason(config, model)
    return None if reason is None else f"model.path {config.path}: a {type(model).__name__} {reason}"


def sequence_obstacle(config: ModelConfig, model: PreTrainedModel) -> str | None:
    """Why ranks cannot share the sequences of `model`, as the end of a sentence; None where they can."""
    if config.attention != "auto":
        return f"model.attention is {config.attention}, and only auto can share sequences"
    if not attends_by_bounds(model):
        return f"a {type(model).__name__} does not compute attention by the bounds of sequences"
    kind = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type")
    if kind in _ROPE_BY_LENGTH:
        return f"the positions of rope_type {kind} depend on the length of the whole sequence"
    return None


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
