"""DeepSpeed's import, and its configuration from the learner section."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch

from maspo_dist.config import TrainConfig
from maspo_dist.runs.logs import LogStream

# DeepSpeed allocates its reduce buckets at once; its default of 5e8 elements is 2 GB per bucket.
_BUCKET_ELEMENTS = 50_000_000


def import_deepspeed(device: torch.device) -> Any:
    """The module, set up for `device` at the first call in a process; nothing is printed."""
    # DeepSpeed reads these once, when it is imported.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # Ray shows each rank its own device alone. A value that a launcher left would bind NCCL to another device.
    os.environ["LOCAL_RANK"] = "0"
    with redirect_stdout(LogStream()):
        import deepspeed

    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if device.type == "cpu":
        # An all-reduce through shared memory, compiled at first use: that takes minutes, and it prints. To set this
        # entry DeepSpeed tries every one of its operations, which takes seconds on a GPU.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_muon()
    for name in ("DeepSpeed", "deepspeed"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    return deepspeed


def _import_muon() -> None:
    """Imports an optimizer that ZeRO asks for in any case. Uncompiled: torch's compiler takes 2 s to import."""
    from deepspeed.runtime import compiler

    compile_function, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = compile_function


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """What the learner section says, with `learner.deepspeed` merged over it."""
    learner = config.learner
    is_bf16 = config.model.dtype == "bfloat16"
    # At ZeRO 0 in bfloat16 DeepSpeed starts AdamW with a step on zero gradients, so its bias corrections are one step
    # ahead (a fifth off after 4 steps), and it refuses to add up gradients in float32. ZeRO 1 does both right.
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
        # Sums of many gradients in bfloat16, over micro-batches or ranks, would lose the small gradients.
        ours |= {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return _merged(ours, learner.deepspeed)


def reference_config(config: TrainConfig) -> dict[str, Any]:
    """For a frozen model that ZeRO-3 partitions: no optimizer, no gradients."""
    learner = config.learner
    zero = {"stage": 3} | {
        key: value for key, value in learner.deepspeed.get("zero_optimization", {}).items() if key.startswith("stage3_")
    }
    if learner.offload_parameters != "none":
        zero["offload_param"] = {"device": learner.offload_parameters}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "zero_optimization": zero,
    }


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_sections else value
    return merged
