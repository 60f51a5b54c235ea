"""What a generation engine is made from, whoever asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maspo_dist.config import EvaluationConfig, ModelConfig, TrainConfig
from maspo_dist.planning.placement import Device

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


def engine_environment(device: Device, threads: int) -> dict[str, str]:
    """What vLLM reads when it is imported; `threads` are CPU threads for its arithmetic."""
    common = {
        "OMP_NUM_THREADS": str(threads),
        # Has vLLM load actors.engines.vllm.plugin.
        "MASPO_DIST_ENGINE": "1",
        # The engines are local: what they serve is nobody else's statistic.
        "VLLM_NO_USAGE_STATS": "1",
    }
    if device == "cuda":
        return common
    return common | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # The model runs in the engine's process: a worker's would only import torch and vLLM a third time.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Keeps torch from compiling C++ at the first request with logprobs.
        "TORCHDYNAMO_DISABLE": "1",
    }


def training_engine(config: TrainConfig) -> EngineSettings:
    """The engine of a rollout worker."""
    return EngineSettings(
        model=config.model,
        max_model_len=config.data.max_prompt_tokens + config.rollout.max_response_tokens + 1,
        tensor_parallel=config.rollout.tensor_parallel,
        seed=config.run.seed,
        arguments=config.rollout.engine,
    )


def evaluation_engine(config: EvaluationConfig, longest_prompt_tokens: int) -> EngineSettings:
    """The engine of a standalone evaluation."""
    return EngineSettings(
        model=config.model,
        max_model_len=longest_prompt_tokens + config.sampling.max_response_tokens + 1,
        tensor_parallel=config.rollout.tensor_parallel,
        seed=config.sampling.seed,
        arguments=config.rollout.engine,
    )
