"""What a step will take on GPUs that nobody has rented yet: seconds per phase, from the shape of the model.

    generate   decoding reads all weights and the keys and values of all running responses per token
    update     arithmetic: forwards, backwards and recomputation of all tokens
    publish    one copy of the weights from learner to engines, by `sync.transport`, and the proof

No forecast has been compared with a run on GPUs yet. It leaves out the network, and what an engine computes per
response outside of the model: on a CPU, the demo spends most of its generation there. Lengths of responses are
assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from maspo_dist.config import TrainConfig
from maspo_dist.models.size import ModelSize, adapter_parameters
from maspo_dist.planning.accelerators import Accelerator
from maspo_dist.planning.placement import (
    SHARED_ENGINE_SHARE,
    engine_memory,
    learner_memory,
    longest_sequence,
    weight_width,
)
from maspo_dist.planning.transport import choose_transport

# Shares of a peak that training and inference of dense models usually reach.
_TRAINING_SHARE, _PREFILL_SHARE, _TRAFFIC_SHARE = 0.4, 0.5, 0.7
#: The engine's own work per token of a response, whatever the model.
_DECODING_OVERHEAD_S = 0.002
#: Bytes per second from the learner into all engines, hashed twice: the object store was measured on a CPU. The
#: broadcast over NCCL and memory of the same GPU are assumptions; they include the learner's copy to its host.
_PUBLISH_BYTES_PER_S = {"object_store": 6e8, "collective": 5e9, "ipc": 1e10}
#: Messages between the processes and the proof of the weights, whatever the model: measured on a CPU.
_PUBLISH_S = 0.3
#: vLLM's default limit of sequences in flight for offline use: on GPUs with at least 70 GiB except the A100, and on all
#: other GPUs.
_MANY_SEQUENCES, _FEW_SEQUENCES, _LARGE_GPU_BYTES = 1024, 256, 70 * 2**30
#: Share of a GPU that vLLM takes unless `rollout.engine.gpu_memory_utilization` says otherwise.
_ENGINE_SHARE = 0.9
#: Bytes per second between a GPU and its host: an assumption.
_HOST_BYTES_PER_S = 2e10


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a prompt and of a response."""

    prompt_tokens: int
    response_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepForecast:
    """Seconds per phase of one step.

    tokens          of prompts and responses
    turns_s         for the moves to the host and back, where learner ranks and engines share GPUs
    is_overlapped   the learner updates while engines generate the next batch
    """

    tokens: int
    generate_s: float
    update_s: float
    publish_s: float
    turns_s: float
    is_overlapped: bool

    @property
    def step_s(self) -> float:
        """Without overlap the sum of the phases, with overlap the slower side."""
        if self.is_overlapped:
            return max(self.generate_s, self.update_s + self.publish_s)
        return self.generate_s + self.update_s + self.publish_s + self.turns_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """GPUs of the learner and rollout workers, and the forecast with them."""

    ranks: int
    workers: int
    forecast: StepForecast


def forecast_step(config: TrainConfig, size: ModelSize, gpu: Accelerator, lengths: Lengths) -> StepForecast:
    """One step of `config` where each rank has one `gpu` and each worker `rollout.tensor_parallel` of them."""
    responses = config.rollout.prompts_per_step * config.rollout.group_size
    return StepForecast(
        tokens=responses * (lengths.prompt_tokens + lengths.response_tokens),
        generate_s=_generate_s(config, size, gpu, lengths),
        update_s=_update_s(config, size, gpu, lengths),
        publish_s=publish_seconds(config, size)[_transport(config)],
        turns_s=_turns_s(config, size),
        is_overlapped=config.algorithm.max_policy_age > 0,
    )


def publish_seconds(config: TrainConfig, size: ModelSize) -> dict[str, float]:
    """Seconds of a publish by each transport that the layout allows."""
    lora = config.learner.lora if config.rollout.lora == "adapter" else None
    published = size.parameters if lora is None else adapter_parameters(lora, size, config.model.path)
    size_bytes = weight_width(config.model) * published
    is_colocated = config.cluster.layout == "colocated"
    possible = {"object_store": True, "collective": not is_colocated}
    possible["ipc"] = is_colocated and config.learner.holds_whole_weights
    return {name: _PUBLISH_S + size_bytes / rate for name, rate in _PUBLISH_BYTES_PER_S.items() if possible[name]}


def splits(config: TrainConfig, size: ModelSize, gpu: Accelerator, lengths: Lengths) -> list[Split]:
    """All ways to divide the GPUs of `config` between learner and engines that fit into memory, fastest first."""
    parallel = config.rollout.tensor_parallel
    gpus = config.learner.ranks + config.rollout.first_workers * parallel
    found = []
    for workers in range(1, gpus // parallel + 1):
        ranks = gpus - workers * parallel
        if ranks < 1 or ranks % config.learner.sequence_parallel:
            continue
        other = config.model_copy(
            update={
                "learner": config.learner.model_copy(update={"ranks": ranks}),
                "rollout": config.rollout.model_copy(update={"workers": workers}),
            }
        )
        if fits(other, size, gpu):
            found.append(Split(ranks=ranks, workers=workers, forecast=forecast_step(other, size, gpu, lengths)))
    return sorted(found, key=lambda split: split.forecast.step_s)


def fits(config: TrainConfig, size: ModelSize, gpu: Accelerator) -> bool:
    """Whether a rank fits on one `gpu`, and an engine with the longest sequence on its GPUs.

    Where they share GPUs, the weights of a rank must fit beside the engine.
    """
    memory = learner_memory(config, size, "cuda")
    beside = memory.weights_bytes if config.cluster.layout == "colocated" else 0
    return (
        memory.total_bytes <= gpu.memory_bytes
        and _sequences_at_once(config, size, gpu) >= 1
        and _engine_share(config) * gpu.memory_bytes + beside <= gpu.memory_bytes
    )


def engine_bytes(config: TrainConfig, gpu: Accelerator) -> int:
    """What vLLM takes of the GPUs of an engine."""
    return int(config.rollout.tensor_parallel * gpu.memory_bytes * _engine_share(config))


def full_sequences(config: TrainConfig, size: ModelSize, gpu: Accelerator) -> int:
    """Sequences at full length whose keys and values fit into an engine; below 0 where its weights do not."""
    memory = engine_memory(config, size, "cuda")
    return (engine_bytes(config, gpu) - memory.weights_bytes) // memory.keys_and_values_bytes


def advice(config: TrainConfig, size: ModelSize, gpu: Accelerator, lengths: Lengths) -> Iterator[str]:
    """What a user should know before renting: which side waits, a better split, and what does not fit."""
    forecast = forecast_step(config, size, gpu, lengths)
    learner_s = forecast.update_s + forecast.publish_s
    if forecast.is_overlapped:
        waits = "the learner waits" if forecast.generate_s > learner_s else "the engines wait"
        slow = "engines" if forecast.generate_s > learner_s else "learner"
        yield f"{waits} {abs(forecast.generate_s - learner_s):,.0f} s per step for the {slow}"
    else:
        yield (
            f"algorithm.max_policy_age is 0, so the learner waits {forecast.generate_s:,.0f} s per step for the "
            f"engines, and the engines {learner_s:,.0f} s for the learner"
        )
    yield "a publish takes " + ", ".join(
        f"{seconds:,.1f} s by {name}" for name, seconds in publish_seconds(config, size).items()
    )
    learner = learner_memory(config, size, "cuda")
    if learner.total_bytes > gpu.memory_bytes:
        yield f"a learner rank does not fit on this GPU: {_smaller_learner(config)}"
    if _sequences_at_once(config, size, gpu) < 1:
        more = [str(gpus) for gpus in size.head_shares if gpus > config.rollout.tensor_parallel]
        fix = f"raise rollout.tensor_parallel to one of {', '.join(more)}" if more else "choose a larger GPU"
        yield f"an engine has no room for one sequence at full length: {fix}"
    if config.cluster.layout == "colocated":
        taken_bytes = _engine_share(config) * gpu.memory_bytes
        if taken_bytes + learner.weights_bytes > gpu.memory_bytes:
            less = "raise learner.ranks" if config.learner.zero_stage == 3 else "set learner.zero_stage to 3"
            yield (
                f"the weights of a rank do not fit beside its engine on the GPUs that they share: {less}, or lower "
                "rollout.engine.gpu_memory_utilization"
            )
        return
    ways = splits(config, size, gpu, lengths)
    if not ways:
        yield "no division of these GPUs between learner and engines fits into their memory"
        return
    best = ways[0]
    settings = f"learner.ranks={best.ranks} rollout.workers={best.workers}"
    if not fits(config, size, gpu):
        yield f"{settings} fits on the same number of GPUs, at {best.forecast.step_s:,.0f} s per step"
    elif best.forecast.step_s < 0.95 * forecast.step_s:
        yield f"{settings} takes {best.forecast.step_s:,.0f} s per step on the same number of GPUs"


def _smaller_learner(config: TrainConfig) -> str:
    """What to change so that a rank holds less."""
    longest, learner = longest_sequence(config), config.learner
    ways = [
        *(["learner.zero_stage"] if learner.zero_stage < 3 else []),
        "learner.ranks",
        "learner.sequence_parallel",
    ]
    fix = f"raise {', '.join(ways[:-1])} or {ways[-1]}, or "
    if learner.micro_batch_tokens > longest:
        return f"{fix}lower learner.micro_batch_tokens"
    return (
        f"{fix}lower data.max_prompt_tokens and rollout.max_response_tokens, whose sum of {longest:,} is more than "
        f"learner.micro_batch_tokens ({learner.micro_batch_tokens:,})"
    )


def _transport(config: TrainConfig) -> str:
    """The transport of the forecast; a user's own counts as object_store, since nothing is known of it."""
    name = choose_transport(config, "cuda").name
    return name if name in _PUBLISH_BYTES_PER_S else "object_store"


def _update_s(config: TrainConfig, size: ModelSize, gpu: Accelerator, lengths: Lengths) -> float:
    algorithm, responses = config.algorithm, config.rollout.prompts_per_step * config.rollout.group_size
    tokens = lengths.prompt_tokens + lengths.response_tokens
    # In forwards of the whole batch; a backward costs two, or one where the weights have no gradients.
    forwards = (3.0 if config.learner.lora is None else 2.0) + (1.0 if config.learner.gradient_checkpointing else 0.0)
    if algorithm.old_logprobs == "recompute":
        forwards += 1.0 - 1.0 / algorithm.mini_batches
    if algorithm.kl.coefficient > 0:
        forwards += 1.0
    operations = responses * tokens * _forward_operations(size, tokens) * forwards
    return operations / (config.learner.ranks * gpu.flops * _TRAINING_SHARE)


def _generate_s(config: TrainConfig, size: ModelSize, gpu: Accelerator, lengths: Lengths) -> float:
    """Prefill, then decoding with all places taken, then the longest response alone."""
    rollout, parallel = config.rollout, config.rollout.tensor_parallel
    per_engine = math.ceil(rollout.prompts_per_step * rollout.group_size / rollout.first_workers)
    at_once = min(per_engine, max(1, _sequences_at_once(config, size, gpu)))
    weights, traffic = weight_width(config.model) * size.parameters, parallel * gpu.bytes_per_s * _TRAFFIC_SHARE
    # On average a running response is half done.
    context = lengths.prompt_tokens + lengths.response_tokens // 2
    kept = at_once * context * size.key_value_elements * weight_width(config.model)
    arithmetic_s = at_once * 2 * size.active_parameters / (parallel * gpu.flops * _PREFILL_SHARE)
    token_s = max((weights + kept) / traffic, arithmetic_s) + _DECODING_OVERHEAD_S
    full_s = per_engine * lengths.response_tokens / at_once * token_s
    alone_s = weight_width(config.model) * size.active_parameters / traffic + _DECODING_OVERHEAD_S
    tail_s = (rollout.max_response_tokens - lengths.response_tokens) * alone_s
    # The responses of a group share the keys and values of their prompt.
    prefill = per_engine / rollout.group_size * lengths.prompt_tokens * _forward_operations(size, lengths.prompt_tokens)
    return prefill / (parallel * gpu.flops * _PREFILL_SHARE) + full_s + tail_s


def _sequences_at_once(config: TrainConfig, size: ModelSize, gpu: Accelerator) -> int:
    """Responses that an engine decodes together: vLLM's limit, or the room for keys and values at full length."""
    rollout = config.rollout
    takes_many = gpu.memory_bytes >= _LARGE_GPU_BYTES and "A100" not in gpu.name
    limit = int(rollout.engine.get("max_num_seqs", _MANY_SEQUENCES if takes_many else _FEW_SEQUENCES))
    return min(limit, full_sequences(config, size, gpu))


def _engine_share(config: TrainConfig) -> float:
    """The share of a GPU that vLLM takes."""
    usual = SHARED_ENGINE_SHARE if config.cluster.layout == "colocated" else _ENGINE_SHARE
    return float(config.rollout.engine.get("gpu_memory_utilization", usual))


def _turns_s(config: TrainConfig, size: ModelSize) -> float:
    """What an optimizer step needs goes to the host and comes back, once a step."""
    if config.cluster.layout == "separate":
        return 0.0
    memory = learner_memory(config, size, "cuda")
    return 2 * (memory.optimizer_bytes + memory.gradients_bytes) / _HOST_BYTES_PER_S


def _forward_operations(size: ModelSize, tokens: int) -> float:
    """Operations per token of one forward of a causal sequence of `tokens`: two per weight, and the attention."""
    return 2.0 * size.active_parameters + 2.0 * size.layers * size.hidden * tokens
