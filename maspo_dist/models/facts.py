"""Tokenizer and size of a model, read without its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from maspo_dist.config import ModelConfig
from maspo_dist.errors import HubUnreachableError, ModelError
from maspo_dist.models.hub import hub_is_reachable
from maspo_dist.models.path import is_hub_name, require_model
from maspo_dist.models.size import ModelSize


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The tokenizer and size of `model.path`; no weights are loaded."""

    tokenizer: PreTrainedTokenizerBase
    size: ModelSize


def read_model_facts(config: ModelConfig) -> ModelFacts:
    """Reads configuration and tokenizer.

    Raises ModelError naming the folder and what is wrong with it, and HubUnreachableError for a hub name while the hub
    cannot be reached.
    """
    path = config.path
    require_model(path)
    offline = is_hub_name(path) and not hub_is_reachable()
    options = {"trust_remote_code": config.trust_remote_code, "local_files_only": offline}
    try:
        model_config = AutoConfig.from_pretrained(path, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        if offline:
            raise HubUnreachableError(
                f"model.path {path}: the hub cannot be reached from here and its cache does not hold the model; "
                "set model.path to a Hugging Face folder"
            ) from None
        raise ModelError(
            f"model.path {path}: no model with its tokenizer can be read there ({_first_line(error)})"
        ) from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.path {path}: the tokenizer has no end-of-sequence token, so no response could end")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)
    if not model_config.architectures:
        raise ModelError(f"model.path {path}: config.json names no architectures, so vLLM cannot tell what it is")
    text_config = model_config.get_text_config()
    heads = text_config.num_attention_heads
    size = ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=text_config.num_hidden_layers,
        kv_heads=getattr(text_config, "num_key_value_heads", None) or heads,
        head_dim=getattr(text_config, "head_dim", None) or text_config.hidden_size // heads,
        context_tokens=text_config.max_position_embeddings,
    )
    return ModelFacts(tokenizer=tokenizer, size=size)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
