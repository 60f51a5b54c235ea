"""Checks before any process starts: model, tokenizer, data, and whether they fit."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from maspo_dist.algorithm import check_loss
from maspo_dist.config import EvaluationConfig, TrainConfig, VerifierConfig
from maspo_dist.data.prompts import ContextLimit, PromptSet, load_prompts
from maspo_dist.data.reasoning import mark_open_reasoning
from maspo_dist.environments.schemas import require_environment, tool_schemas
from maspo_dist.errors import ConfigError, ModelError, PlacementError
from maspo_dist.models.facts import ModelFacts, read_model_facts
from maspo_dist.models.size import ModelSize, adapted_kinds
from maspo_dist.planning.devices import require_libraries, require_torch
from maspo_dist.planning.environment import continuation_notes
from maspo_dist.planning.placement import NodeRoom, pick_device, places, plan_bundles, require_fit
from maspo_dist.reward.registry import check_rewards
from maspo_dist.runs.catalogue import hint_if_unwritten
from maspo_dist.runs.metrics import require_sinks

#: Prompts whose token ids are compared in one call.
_BATCH_PROMPTS = 4096
#: Most sources that a sentence names.
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run needs besides processes."""

    model: ModelFacts
    train: PromptSet
    evaluation: Mapping[str, PromptSet]


def prepare(config: TrainConfig) -> Prepared:
    """Reads model facts and data. Raises every mistake that is visible before a process starts."""
    require_sinks(config.logging)
    require_best(config)
    check_loss(config.algorithm.loss)
    check_rewards(config.reward)
    require_environment(config.environment)
    model = inspect_model(config)
    continuation_notes(config)
    if "RAY_ADDRESS" not in os.environ:
        # The cluster will be this machine alone, so its resources are known before it starts.
        gpus = torch.cuda.device_count()
        device = pick_device(config.model.device, has_gpu=gpus > 0)
        here = NodeRoom(resources={"CPU": os.cpu_count() or 1, "GPU": gpus})
        try:
            require_fit(places(config, plan_bundles(config, model.size, device)), [here])
        except PlacementError as error:
            raise PlacementError(f"{error}; without RAY_ADDRESS the cluster is this machine alone") from None
        require_torch(device)
        require_libraries(device)
    train = load_data(config, config.data.train, model)
    evaluation = {name: load_data(config, [path], model) for name, path in config.data.eval.items()}
    require_sources(config.reward, [train, *evaluation.values()])
    return Prepared(model=model, train=train, evaluation=evaluation)


def prepare_evaluation(config: EvaluationConfig) -> tuple[ModelFacts, dict[str, PromptSet]]:
    """The model's facts and the held-out sets by name. Raises every mistake that is visible before a process starts."""
    check_rewards(config.reward)
    require_environment(config.environment)
    model, response_tokens = read_model_facts(config.model), config.sampling.max_response_tokens
    require_divisible_heads(config, model.size)
    continuation_notes(config)
    limit = ContextLimit(context_tokens=model.size.context_tokens, response_tokens=response_tokens)
    sets = {name: _load(config, [data_set], model, limit) for name, data_set in config.data.sets.items()}
    require_sources(config.reward, sets.values())
    longest = max(prompt.token_ids.size for prompts in sets.values() for prompt in prompts.prompts)
    wanted = longest + response_tokens
    lengths = f"the longest prompt ({longest}) and sampling.max_response_tokens ({response_tokens}) add up to {wanted}"
    require_engine_length(config.rollout.engine, wanted, lengths, model.size)
    return model, sets


def inspect_model(config: TrainConfig) -> ModelFacts:
    """The facts of a model that can be trained, else ModelError.

    Raises as `read_model_facts`, `require_context`, `require_divisible_heads` and `adapted_kinds` do.
    """
    if config.model.attention == "flash_attention_2" and config.model.device == "cpu":
        raise ConfigError("model.attention is flash_attention_2, but model.device is cpu: set attention to auto")
    facts = read_model_facts(config.model)
    if facts.training_obstacle is not None:
        raise ModelError(facts.training_obstacle)
    if config.learner.lora is not None:
        adapted_kinds(config.learner.lora, facts.size.linear_layers, config.model.path)
    require_divisible_heads(config, facts.size)
    sharing = config.learner.sequence_parallel
    if sharing > 1 and facts.sequence_obstacle is not None:
        raise ConfigError(f"learner.sequence_parallel is {sharing}, but {facts.sequence_obstacle}: set it to 1")
    require_context(config, facts.size)
    return facts


def require_divisible_heads(config: TrainConfig | EvaluationConfig, size: ModelSize) -> None:
    """Raises ConfigError when ranks that share sequences, or the GPUs of an engine, cannot have equally many heads.

    An engine of the user's own may divide the model in another way.
    """
    shares = {}
    if isinstance(config, TrainConfig):
        shares["learner.sequence_parallel"] = config.learner.sequence_parallel
    if config.rollout.backend == "vllm":
        shares["rollout.tensor_parallel"] = config.rollout.tensor_parallel
    for key, share in shares.items():
        if share not in size.head_shares:
            raise ConfigError(
                f"{key} is {share}, which must divide the {size.heads} attention heads of {config.model.path}, and "
                f"divide its {size.kv_heads} key-value heads or be a multiple of them: choose one of "
                f"{', '.join(map(str, size.head_shares))}"
            )


def require_context(config: TrainConfig, size: ModelSize) -> None:
    """Raises ConfigError when the longest prompt and response do not fit the model, or the engine, together."""
    response_tokens = config.longest_response_tokens
    section = "rollout" if response_tokens == config.rollout.max_response_tokens else "evaluation"
    wanted = config.data.max_prompt_tokens + response_tokens
    lengths = (
        f"data.max_prompt_tokens ({config.data.max_prompt_tokens}) and {section}.max_response_tokens "
        f"({response_tokens}) add up to {wanted}"
    )
    if wanted > size.context_tokens:
        raise ConfigError(
            f"{lengths}, but {config.model.path} holds {size.context_tokens} ({size.context_key}): lower one of them"
        )
    require_engine_length(config.rollout.engine, wanted, lengths, size)


def require_engine_length(engine: Mapping[str, Any], wanted: int, lengths: str, size: ModelSize) -> None:
    """Raises ConfigError when `max_model_len` is less than the `wanted` tokens, or more than the model holds.

    `lengths` says what the wanted tokens are made of.
    """
    length = engine.get("max_model_len")
    if length is None or length == -1:
        return
    if not isinstance(length, int) or isinstance(length, bool):
        raise ConfigError(f"rollout.engine.max_model_len must be a whole number of tokens, got {length!r}")
    if length < wanted:
        raise ConfigError(f"{lengths}, but rollout.engine.max_model_len is {length}: set it to {wanted} or remove it")
    if length > size.context_tokens:
        raise ConfigError(
            f"rollout.engine.max_model_len is {length}, but the model holds {size.context_tokens} "
            f"({size.context_key}): lower or remove it"
        )


def load_data(config: TrainConfig, data_sets: Sequence[str], model: ModelFacts) -> PromptSet:
    """The prompts of `data_sets`, checked against the model's context. Raises as `load_prompts` does."""
    limit = ContextLimit(context_tokens=model.size.context_tokens, response_tokens=config.longest_response_tokens)
    return _load(config, data_sets, model, limit)


def _load(
    config: TrainConfig | EvaluationConfig, data_sets: Sequence[str], model: ModelFacts, limit: ContextLimit
) -> PromptSet:
    prompts = load_prompts(data_sets, config.data, model.tokenizer, limit, tool_schemas(config.environment))
    require_known_ids(prompts, model, config.model.path)
    marked = mark_open_reasoning(prompts.prompts, config.data, model.tokenizer, config.reward.reasoning_tags)
    return replace(prompts, prompts=marked)


def require_best(config: TrainConfig) -> None:
    """Raises ConfigError if the run does not write the metric of `checkpoint.keep_best`: none would be the best."""
    wanted = config.checkpoint.keep_best
    if wanted in ("auto", "none"):
        return
    hint = hint_if_unwritten(wanted, config)
    if hint is not None:
        raise ConfigError(f"checkpoint.keep_best is {wanted!r}, but the run writes no such metric; {hint}")


def require_sources(reward: VerifierConfig, data_sets: Iterable[PromptSet]) -> None:
    """Raises ConfigError if `reward.verifiers` names a source of no prompt: `reward.default` would score its rows."""
    present = sorted({prompt.source for prompts in data_sets for prompt in prompts.prompts})
    unknown = next((source for source in reward.verifiers if source not in present), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, present, n=1)
        hint = f"did you mean {near[0]}?" if near else f"remove it; their sources are {', '.join(present[:_SHOWN])}"
        raise ConfigError(f"reward.verifiers.{unknown}: no prompt of the data sets has the source {unknown!r}; {hint}")


def require_known_ids(prompts: PromptSet, model: ModelFacts, path: str) -> None:
    """Raises ModelError when a prompt holds a token for which the model has no embedding."""
    for start in range(0, len(prompts.prompts), _BATCH_PROMPTS):
        batch = prompts.prompts[start : start + _BATCH_PROMPTS]
        if int(np.concatenate([prompt.token_ids for prompt in batch]).max()) >= model.embeddings:
            prompt = next(prompt for prompt in batch if int(prompt.token_ids.max()) >= model.embeddings)
            largest = int(prompt.token_ids.max())
            token = model.tokenizer.convert_ids_to_tokens(largest)
            raise ModelError(
                f"model.path {path}: prompt {prompt.prompt_id} holds the token {token!r} with id {largest}, but the "
                f"model has embeddings for ids below {model.embeddings}: resize them to the {len(model.tokenizer)} "
                "tokens of the tokenizer (resize_token_embeddings), or use the tokenizer of the model"
            )
