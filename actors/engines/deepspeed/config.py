"""From the learner section to DeepSpeed's own configuration."""

from __future__ import annotations

from typing import Any

from maspo_dist.config import TrainConfig

# DeepSpeed allocates its reduce buckets up front; its default of 5e8 elements is 2 GB a bucket.
_BUCKET_ELEMENTS = 50_000_000


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's configuration: what the learner section says, with `learner.deepspeed` merged over it.

    Keys that other settings own are refused when the configuration is read, so nothing set there is
    overridden here.
    """
    learner = config.learner
    is_bf16 = config.model.dtype == "bfloat16"
    # At ZeRO 0 in bfloat16 DeepSpeed starts AdamW by a step on zero gradients, so its bias corrections run
    # one step ahead (a fifth off after 4 steps, and nothing off once that is undone), and it refuses to add
    # up gradients in float32. ZeRO 1 does both right; on one rank it is the same thing.
    stage = 1 if is_bf16 and learner.zero_stage == 0 else learner.zero_stage
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": _BUCKET_ELEMENTS}
    if learner.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": learner.offload_optimizer}
    if learner.offload_parameters != "none":
        zero["offload_param"] = {"device": learner.offload_parameters}
    ours: dict[str, Any] = {
        # Micro-batches vary in number: the engine marks the boundary of an optimizer step itself.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": learner.max_grad_norm,
        "bf16": {"enabled": is_bf16},
        "zero_optimization": zero,
        # torch's AdamW runs on every device; DeepSpeed's CPUAdam would have to be compiled.
        "zero_force_ds_cpu_optimizer": False,
    }
    if is_bf16:
        # Dozens of micro-batches added up in bfloat16 would lose the small ones.
        ours["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(ours, learner.deepspeed)


def reference_config(config: TrainConfig) -> dict[str, Any]:
    """For a frozen model partitioned by ZeRO-3: no optimizer, no gradients."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "zero_optimization": _merged({"stage": 3}, _zero_parameters(config)),
    }


def _zero_parameters(config: TrainConfig) -> dict[str, Any]:
    zero = config.learner.deepspeed.get("zero_optimization", {})
    shared = {key: value for key, value in zero.items() if key.startswith("stage3_")}
    if config.learner.offload_parameters != "none":
        shared["offload_param"] = {"device": config.learner.offload_parameters}
    return shared


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_sections else value
    return merged
