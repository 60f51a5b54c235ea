"""Divides a model among the ranks under ZeRO-3, one parameter at a time.

Left alone, `deepspeed.initialize` first moves the whole model to the device of every rank, where it may not fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def partition(model: nn.Module, settings: dict[str, Any], device: torch.device) -> None:
    """Leaves of each parameter of rank 0 a share on every rank, and moves the buffers to `device`. Collective.

    `settings` are those of the `deepspeed.initialize` that follows. Each parameter stays the same object.
    """
    from deepspeed.runtime.zero.partition_parameters import Init

    if settings["bf16"]["enabled"]:
        # transformers leaves some parameters of some models in float32. DeepSpeed rounds them in a whole model only.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    Init(module=model, config_dict_or_path=settings)
    # DeepSpeed leaves the buffers of a partitioned model where they are.
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
