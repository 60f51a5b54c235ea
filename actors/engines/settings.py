"""What a generation engine is made from, whoever asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maspo_dist.config import EvalConfig, ModelConfig, TrainConfig

#: Policy version of tokens from an engine that serves its model as it was loaded, none published to it.
AS_LOADED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """`max_model_len` is prompt and response at their longest, in tokens; `arguments` are the engine's own."""

    model: ModelConfig
    max_model_len: int
    tensor_parallel: int
    seed: int
    arguments: Mapping[str, Any]


def training_engine(config: TrainConfig) -> EngineSettings:
    """The engine of a rollout worker."""
    return EngineSettings(
        model=config.model,
        max_model_len=config.data.max_prompt_tokens + config.rollout.max_response_tokens + 1,
        tensor_parallel=config.rollout.tensor_parallel,
        seed=config.run.seed,
        arguments=config.rollout.engine,
    )


def evaluation_engine(config: EvalConfig, longest_prompt_tokens: int) -> EngineSettings:
    """The engine of a standalone evaluation."""
    return EngineSettings(
        model=config.model,
        max_model_len=longest_prompt_tokens + config.sampling.max_response_tokens + 1,
        tensor_parallel=config.rollout.tensor_parallel,
        seed=config.sampling.seed,
        arguments=config.rollout.engine,
    )
