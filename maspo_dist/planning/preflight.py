"""Checks before any process starts: model, tokenizer, data, and whether they fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from maspo_dist.algorithm import check_loss
from maspo_dist.config import TrainConfig
from maspo_dist.data.prompts import ContextLimit, PromptSet, load_prompts
from maspo_dist.data.reasoning import mark_open_reasoning
from maspo_dist.errors import ConfigError, ModelError
from maspo_dist.models.facts import ModelFacts, read_model_facts
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.placement import pick_device, plan_bundles, require_fit
from maspo_dist.reward.registry import check_rewards
from maspo_dist.runs.metrics import require_sinks


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run needs besides processes."""

    model: ModelFacts
    train: PromptSet
    evaluation: Mapping[str, PromptSet]


def prepare(config: TrainConfig) -> Prepared:
    """Reads model facts and data. Raises every mistake that is visible before a process starts."""
    require_sinks(config.logging)
    check_loss(config.algorithm.loss)
    check_rewards(config.reward)
    model = inspect_model(config)
    if "RAY_ADDRESS" not in os.environ:
        # The cluster will be this machine alone, so its resources are known before it starts.
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        device = pick_device(config.model.device, has_gpu=here["GPU"] > 0)
        require_fit(plan_bundles(config, model.size, device), here)
    return Prepared(
        model=model,
        train=load_data(config, config.data.train, model),
        evaluation={name: load_data(config, [path], model) for name, path in config.data.eval.items()},
    )


def inspect_model(config: TrainConfig) -> ModelFacts:
    """The facts of a model that can be trained, else ModelError. Raises as `read_model_facts`, `require_context` do."""
    facts = read_model_facts(config.model)
    if facts.training_obstacle is not None:
        raise ModelError(facts.training_obstacle)
    require_context(config, facts.size)
    return facts


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
    """The prompts of `data_sets`, checked against the model's context. Raises as `load_prompts` does."""
    limit = ContextLimit(context_tokens=model.size.context_tokens, response_tokens=config.rollout.max_response_tokens)
    loaded = load_prompts(data_sets, config.data, model.tokenizer, limit)
    marked = mark_open_reasoning(loaded.prompts, config.data, model.tokenizer, config.reward.reasoning_tags)
    return replace(loaded, prompts=marked)
