"""Settings of a generation engine, for training and for evaluation, and the environment of engines and learners."""

from __future__ import annotations

from actors.interfaces import AdapterSettings, EngineSettings
from maspo_dist.config import EvaluationConfig, TrainConfig, VerifierConfig
from maspo_dist.models.size import adapted_kinds
from maspo_dist.planning.placement import CPU_CACHE_GIB, Device


def engine_environment(device: Device, threads: int) -> dict[str, str]:
    """Environment of an engine's process, which vLLM reads when imported; `threads` are CPU threads for arithmetic."""
    common = {
        "OMP_NUM_THREADS": str(threads),
        # Has vLLM load actors.engines.vllm.plugin.
        "MASPO_DIST_ENGINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if device == "cuda":
        return common
    return common | {
        "VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Runs the model in the engine's process: a worker process would import torch and vLLM a third time.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Keeps torch from compiling C++ at the first request with logprobs.
        "TORCHDYNAMO_DISABLE": "1",
        # Products of matrices that are kept compiled, each for one number of tokens: of 1024 that oneDNN would keep,
        # the last ones come after thousands of steps, so that the engine's memory seems to leak.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    }


def learner_environment(device: Device, threads: int, *, shares_memory: bool) -> dict[str, str]:
    """Environment of a learner rank's process; `threads` are CPU threads for arithmetic.

    `shares_memory`: engines read the rank's memory, by `sync.transport: ipc`.
    """
    common = {"OMP_NUM_THREADS": str(threads)}
    if device == "cpu":
        return common
    if shares_memory:
        # Another process may open expandable segments only with the right to trace this process. The node's environment
        # may ask for them by either name.
        return common | dict.fromkeys(("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), "expandable_segments:False")
    # The packed length differs from forward to forward, and blocks of fixed sizes would fragment the GPU's memory.
    return common | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


def training_engine(config: TrainConfig) -> EngineSettings:
    """The engine of a rollout worker."""
    return EngineSettings(
        model=config.model,
        max_model_len=config.data.max_prompt_tokens + config.longest_response_tokens,
        tensor_parallel=config.rollout.tensor_parallel,
        seed=config.run.seed,
        keeps_kv=config.rollout.in_flight_kv == "keep",
        arguments=config.rollout.engine,
        counts=config.logging.prometheus_port is not None,
        sleeps=config.cluster.layout == "colocated",
        adapter=adapter_settings(config),
        reasoning_tags=_tags(config.reward),
    )


def adapter_settings(config: TrainConfig) -> AdapterSettings | None:
    """None where engines get all weights."""
    lora = config.learner.lora
    if lora is None or config.rollout.lora == "merged":
        return None
    from maspo_dist.models.facts import read_outline  # imports torch and transformers, which an engine has loaded
    from maspo_dist.models.linear_layers import linear_kinds

    _, outline = read_outline(config.model)
    kinds = adapted_kinds(lora, linear_kinds(outline), config.model.path)
    return AdapterSettings(rank=lora.rank, layers=tuple(kind.name for kind in kinds))


def evaluation_engine(config: EvaluationConfig, longest_prompt_tokens: int) -> EngineSettings:
    """The engine of a standalone evaluation."""
    return EngineSettings(
        model=config.model,
        max_model_len=longest_prompt_tokens + config.sampling.max_response_tokens,
        tensor_parallel=config.rollout.tensor_parallel,
        seed=config.sampling.seed,
        keeps_kv=False,
        arguments=config.rollout.engine,
        reasoning_tags=_tags(config.reward),
    )


def _tags(reward: VerifierConfig) -> tuple[str, ...]:
    return tuple(tag for pair in reward.reasoning_tags.items() for tag in pair)
