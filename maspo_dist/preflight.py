"""Everything that can be known before a process starts: model, tokenizer, data, and whether they fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from maspo_dist.config import ModelConfig, TrainConfig
from maspo_dist.data.prompts import ContextLimit, PromptSet, load_prompts
from maspo_dist.errors import ConfigError, HubUnreachableError, ModelError
from maspo_dist.hub import hub_is_reachable
from maspo_dist.metrics import require_sinks
from maspo_dist.model_path import is_hub_name, require_model
from maspo_dist.placement import ModelSize, plan_bundles, require_fit


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The tokenizer and size of `model.path`; no weights are loaded."""

    tokenizer: PreTrainedTokenizerBase
    size: ModelSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run needs besides processes."""

    model: ModelFacts
    train: PromptSet
    evaluation: Mapping[str, PromptSet]


def prepare(config: TrainConfig) -> Prepared:
    """Reads model facts and data. Every mistake that can be seen without starting anything is raised here."""
    require_sinks(config.logging)
    model = inspect_model(config)
    if "RAY_ADDRESS" not in os.environ:
        # The cluster will be this machine alone, so what it lacks is known before it starts.
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        device = config.model.device if config.model.device != "auto" else ("cuda" if here["GPU"] else "cpu")
        require_fit(plan_bundles(config, model.size, device), here)
    return Prepared(
        model=model,
        train=load_data(config, config.data.train, model),
        evaluation={name: load_data(config, [path], model) for name, path in config.data.eval.items()},
    )


def inspect_model(config: TrainConfig) -> ModelFacts:
    """Reads configuration and tokenizer of the model and checks that prompts and responses fit its context.

    Raises ModelError naming the folder and what is wrong with it, HubUnreachableError for a hub name that
    nobody here can look up, ConfigError when the lengths do not fit.
    """
    facts = read_model_facts(config.model)
    require_context(config, facts.size)
    return facts


def read_model_facts(config: ModelConfig) -> ModelFacts:
    """Reads configuration and tokenizer. Raises ModelError naming the folder and what is wrong with it, and
    HubUnreachableError for a hub name that nobody here can look up.
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


def require_context(config: TrainConfig, size: ModelSize) -> None:
    """Raises ConfigError when the longest prompt and the longest response do not fit the model together."""
    wanted = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    if wanted > size.context_tokens:
        raise ConfigError(
            f"data.max_prompt_tokens ({config.data.max_prompt_tokens}) and rollout.max_response_tokens "
            f"({config.rollout.max_response_tokens}) add up to {wanted}, but {config.model.path} holds "
            f"{size.context_tokens}: lower one of them"
        )


def load_data(config: TrainConfig, data_sets: Sequence[str], model: ModelFacts) -> PromptSet:
    """The prompts of `data_sets`, checked against what the model can hold. Raises as `load_prompts` does."""
    limit = ContextLimit(context_tokens=model.size.context_tokens, response_tokens=config.rollout.max_response_tokens)
    return load_prompts(data_sets, config.data, model.tokenizer, limit)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
