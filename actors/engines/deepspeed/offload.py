"""Moves what only an optimizer step needs to the host and back, exactly: master weights, moments and gradients.

The weights stay on the device. DeepSpeed moves all of it under ZeRO-2. Under ZeRO-3 it moves masters and moments for
an optimizer of its own only, so they are moved here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: ZeRO stages under which DeepSpeed can move gradients and masters.
MOVABLE_STAGES = (2, 3)


def leave_device(engine: Any, zero_stage: int, device: torch.device) -> None:
    """Moves the states of a DeepSpeed `engine` from `device` to the host. Call it between two updates."""
    from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as State

    states = [State.lp_grads, State.contiguous_grad_buffer]
    if zero_stage == 2:
        states += [State.hp_params, State.optim_states]
    on_cuda = device.type == "cuda"
    engine.offload_states(include=states, pin_memory=on_cuda)
    if zero_stage == 3:
        for tensor in _sharded_states(engine):
            host = torch.empty_like(tensor, device="cpu", pin_memory=on_cuda)
            tensor.data = host.copy_(tensor)
    if on_cuda:
        torch.cuda.empty_cache()


def return_to_device(engine: Any, zero_stage: int, device: torch.device) -> None:
    """Undoes `leave_device`."""
    engine.reload_states()
    if zero_stage == 3:
        for tensor in _sharded_states(engine):
            tensor.data = tensor.to(device, copy=True)


def _sharded_states(engine: Any) -> Iterator[Tensor]:
    """This rank's masters and moments under ZeRO-3."""
    for master in engine.optimizer.fp32_partitioned_groups_flat:
        yield master
        for state in engine.optimizer.optimizer.state.get(master, {}).values():
            if isinstance(state, Tensor) and state.numel() == master.numel():
                yield state
