"""Tokenizer and size of a model, read without its weights; and whether the hub answers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import httpx
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from maspo_dist.config import ModelConfig
from maspo_dist.errors import HubUnreachableError, ModelError
from maspo_dist.models.path import is_hub_name, require_model
from maspo_dist.models.size import ModelSize
from maspo_dist.models.support import training_obstacle

_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The tokenizer and size of `model.path`, and why it cannot be trained, if so; no weights are loaded."""

    tokenizer: PreTrainedTokenizerBase
    size: ModelSize
    training_obstacle: str | None


def read_model_facts(config: ModelConfig) -> ModelFacts:
    """Reads configuration and tokenizer. Raises ModelError naming the folder and what is wrong with it.

    The error is a HubUnreachableError for a hub name if the cache lacks the model and the hub does not answer.
    """
    path = config.path
    settings, outline = read_outline(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **_options(config))
    except (OSError, ValueError) as error:
        raise _unreadable(path, "tokenizer", error) from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.path {path}: the tokenizer has no end-of-sequence token, so no response could end")
    if not settings.architectures:
        raise ModelError(f"model.path {path}: config.json names no architectures, so vLLM cannot tell what it is")
    text = settings.get_text_config()
    heads = text.num_attention_heads
    size = ModelSize(
        parameters=sum(parameter.numel() for parameter in outline.parameters()),
        vocabulary=text.vocab_size,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        context_tokens=text.max_position_embeddings,
    )
    return ModelFacts(tokenizer=tokenizer, size=size, training_obstacle=training_obstacle(config, outline))


def read_outline(config: ModelConfig) -> tuple[Any, Any]:
    """config.json, and its model without weights (on torch's device meta). Raises as `read_model_facts` does."""
    path = config.path
    require_model(path)
    try:
        settings = AutoConfig.from_pretrained(path, **_options(config))
        with torch.device("meta"):
            return settings, AutoModelForCausalLM.from_config(settings, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise _unreadable(path, "model", error) from None


@functools.cache
def hub_is_reachable() -> bool:
    """Whether the hub answers, checked once per process; the hub's own client would retry for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
    except httpx.HTTPError:
        return False
    return True


def _options(config: ModelConfig) -> dict[str, bool]:
    offline = is_hub_name(config.path) and not hub_is_reachable()
    return {"trust_remote_code": config.trust_remote_code, "local_files_only": offline}


def _unreadable(path: str, part: str, error: Exception) -> ModelError:
    if is_hub_name(path) and not hub_is_reachable():
        return HubUnreachableError(
            f"model.path {path}: the hub cannot be reached from here and its cache does not hold the {part}; "
            "set model.path to a Hugging Face folder"
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return ModelError(f"model.path {path}: no {part} can be read there ({reason})")
