"""The processes of a run: their number, CPUs and GPUs, and an estimate of their memory.

Pure planning; `actors.processes` reserves what is planned here and `maspo-dist check` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from maspo_dist.config import EvaluationConfig, TrainConfig, VerifierConfig
from maspo_dist.errors import PlacementError
from maspo_dist.models.size import ModelSize

Device = Literal["cpu", "cuda"]
Role = Literal["learner", "rollout", "verifier"]

#: Share of a core that each process reserves on a machine without GPUs, where the processes take turns.
CPU_SHARE = 0.25
_GIB = 1024**3


def pick_device(wanted: Device | Literal["auto"], *, has_gpu: bool) -> Device:
    """The configured device; `auto` means GPUs where there are any."""
    if wanted == "auto":
        return "cuda" if has_gpu else "cpu"
    return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`count` processes of one role, each with these resources on one node."""

    role: Role
    count: int
    cpus: float
    gpus: int
    memory_bytes: int
    what: str


def plan_bundles(config: TrainConfig, size: ModelSize, device: Device) -> tuple[Bundle, ...]:
    """The processes of a run, learners first, as they are placed."""
    on_gpu = device == "cuda"
    rollout, learner = config.rollout, config.learner
    return (
        Bundle(
            role="learner",
            count=learner.ranks,
            cpus=1.0 if on_gpu else CPU_SHARE,
            gpus=1 if on_gpu else 0,
            memory_bytes=learner_bytes(config, size),
            what=f"DeepSpeed ZeRO-{learner.zero_stage} rank",
        ),
        Bundle(
            role="rollout",
            count=rollout.first_workers,
            cpus=1.0 if on_gpu else CPU_SHARE,
            gpus=rollout.tensor_parallel if on_gpu else 0,
            memory_bytes=rollout_bytes(config, size) // (rollout.tensor_parallel if on_gpu else 1),
            what=f"vLLM engine, tensor parallel {rollout.tensor_parallel}",
        ),
        verifier_bundle(config.reward, device),
    )


def plan_evaluation(config: EvaluationConfig, size: ModelSize, device: Device, gpus: int) -> tuple[Bundle, ...]:
    """The processes of a standalone evaluation, engines first; `gpus` is how many the cluster has."""
    on_gpu = device == "cuda"
    rollout = config.rollout
    workers = rollout.workers or (max(1, gpus // rollout.tensor_parallel) if on_gpu else 1)
    width = 2 if config.model.dtype == "bfloat16" else 4
    return (
        Bundle(
            role="rollout",
            count=workers,
            cpus=1.0 if on_gpu else CPU_SHARE,
            gpus=rollout.tensor_parallel if on_gpu else 0,
            memory_bytes=width * size.parameters,
            what=f"vLLM engine, tensor parallel {rollout.tensor_parallel}",
        ),
        verifier_bundle(config.reward, device),
    )


def verifier_bundle(config: VerifierConfig, device: Device) -> Bundle:
    """The pool of verifier processes."""
    return Bundle(
        role="verifier",
        count=1,
        cpus=float(config.workers) if device == "cuda" else CPU_SHARE,
        gpus=0,
        memory_bytes=config.workers * config.memory_mb * 1024**2,
        what=f"pool of {config.workers} verifier processes",
    )


def learner_bytes(config: TrainConfig, size: ModelSize) -> int:
    """Model state of one rank plus the logits and activations of one micro-batch, an estimate.

    State per parameter: weight and gradient in the model's dtype, in bfloat16 a float32 master copy, two
    float32 moments. ZeRO 1 shards master and moments over the ranks, 2 the gradient too, 3 the weight too.
    """
    ranks, stage = config.learner.ranks, config.learner.zero_stage
    width = 2 if config.model.dtype == "bfloat16" else 4
    optimizer = (8 + (4 if width == 2 else 0)) * size.parameters
    gradient, weight = width * size.parameters, width * size.parameters
    state = (
        optimizer / (ranks if stage >= 1 else 1)
        + gradient / (ranks if stage >= 2 else 1)
        + weight / (ranks if stage >= 3 else 1)
    )
    hidden = size.kv_heads * size.head_dim
    # About 16 activations of hidden size per layer and token are kept for backward, 1 with checkpointing.
    kept = 1 if config.learner.gradient_checkpointing else 16
    activations = config.learner.micro_batch_tokens * size.layers * hidden * kept * width
    return int(state + activations)


def rollout_bytes(config: TrainConfig, size: ModelSize) -> int:
    """Weights of one engine plus the keys and values of one step's share of full-length sequences."""
    width = 2 if config.model.dtype == "bfloat16" else 4
    sequences = math.ceil(config.rollout.prompts_per_step * config.rollout.group_size / config.rollout.first_workers)
    sequences = min(sequences, int(config.rollout.engine.get("max_num_seqs", 256)))
    tokens = sequences * (config.data.max_prompt_tokens + config.rollout.max_response_tokens)
    return width * (size.parameters + tokens * 2 * size.layers * size.kv_heads * size.head_dim)


def require_fit(bundles: tuple[Bundle, ...], available: Mapping[str, float]) -> None:
    """Raises PlacementError naming what is missing. `available` as Ray counts: {"CPU": 8, "GPU": 1, …}."""
    needs = {
        "CPU": sum(bundle.count * bundle.cpus for bundle in bundles),
        "GPU": sum(bundle.count * bundle.gpus for bundle in bundles),
    }
    short = {name: need for name, need in needs.items() if need > available.get(name, 0.0)}
    if not short:
        return
    missing = " and ".join(
        f"{need:g} {name} where the cluster has {available.get(name, 0.0):g}" for name, need in short.items()
    )
    demand = ", ".join(
        f"{bundle.count} × {bundle.role} ({bundle.cpus:g} CPU{f', {bundle.gpus} GPU' if bundle.gpus else ''})"
        for bundle in bundles
    )
    raise PlacementError(f"the run needs {missing}: {demand}; lower learner.ranks or rollout.workers, or add nodes")


def gibibytes(count: int) -> str:
    """`count` bytes in GiB, as text."""
    return f"{count / _GIB:.2f} GiB"
