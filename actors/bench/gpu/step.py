"""One update of the learner on one rank: tokens per second, share of the GPU's peak, memory against the plan."""

from __future__ import annotations

import os

import torch

from actors.bench.gpu.cost import cost_of
from actors.bench.gpu.responses import lay_out, random_groups
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.setting import Scale
from actors.bench.gpu.workplace import Workplace
from actors.engines.deepspeed.engine import DeepSpeedEngine
from actors.engines.settings import learner_environment
from actors.ray.on_node import free_port
from maspo_dist.models.facts import read_model_facts
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.accelerators import accelerator_named
from maspo_dist.planning.placement import plan_bundles

#: How far the plan of `maspo-dist check` may be from the memory that an update takes.
_PLAN_LEAST, _PLAN_MOST = 0.8, 1.2


def measure(place: Workplace) -> Measured:
    """One optimizer step of eight full micro-batches, forward and backward with checkpointing."""
    setting, scale = place.setting, place.setting.scale
    # Read at the first allocation on the GPU.
    os.environ.update(learner_environment(setting.device, threads=1, shares_memory=False))
    config = place.config(place.model)
    engine = DeepSpeedEngine(config, setting.device, 0, 1, f"tcp://127.0.0.1:{free_port()}")
    groups = random_groups(config, scale.shape.vocabulary)
    batch = lay_out(config, groups)
    bodies = {group.group_id: group for group in groups}
    norms: list[float] = []

    def update() -> None:
        metrics = engine.update(batch.shards[0], batch.loss_tokens, batch.loss_sequences, bodies)
        norms.append(metrics["learner/grad_norm"])

    cost = cost_of(update, place.device, repeats=2)
    # The peak with weights and optimizer state: both were allocated before `cost_of` reset the allocator's peak.
    peak_bytes = torch.cuda.max_memory_allocated(place.device) if place.device.type == "cuda" else cost.peak_bytes
    size = read_model_facts(config.model).size
    planned = plan_bundles(config, size, setting.device)[0].memory_bytes
    tokens = scale.sequences * scale.micro_batch_tokens // 4
    accelerator = accelerator_named(place.device_name)
    flops = _flops(size, scale, tokens) / cost.seconds
    figures: dict[str, Figure] = {
        "micro_batches": sum(len(mini) for mini in batch.shards[0]),
        "tokens": tokens,
        "seconds": cost.seconds,
        "tokens_per_s": tokens / cost.seconds,
        "teraflops": flops / 1e12,
        "share_of_peak": None if accelerator is None else flops / accelerator.flops,
        "peak_gb": peak_bytes / 1e9,
        "planned_gb": planned / 1e9,
        "peak_of_plan": peak_bytes / planned,
        "grad_norm": norms[-1],
    }
    engine.close()
    limits = [Limit(figure="grad_norm", least=1e-9)]
    if setting.judges_speed:
        limits.append(Limit(figure="peak_of_plan", least=_PLAN_LEAST, most=_PLAN_MOST))
    return Measured(figures=figures, limits=tuple(limits))


def _flops(size: ModelSize, scale: Scale, tokens: int) -> float:
    """Operations of forward and backward, as speeds are usually compared: recomputation does not count.

    6 per weight and token, the input embedding aside; for attention 6·L·width per token and layer at length L, half of
    which causality leaves out.
    """
    weights = size.parameters - size.vocabulary * size.hidden
    length = scale.micro_batch_tokens // 4
    attention = 6 * length * size.layers * scale.shape.heads * size.head_dim
    return float(tokens * (6 * weights + attention))
