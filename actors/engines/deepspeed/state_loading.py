"""Copies a learner's state into a DeepSpeed engine of any layout.

Each rank copies the elements that its own float32 tensors hold; the weights of the forward pass are then remade from
these tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from actors.engines.deepspeed.state import LearnerState, Quantity, Span, hugging_face_name
from maspo_dist.config import LearnerConfig
from maspo_dist.errors import ConfigError

_MOMENTS: tuple[Quantity, ...] = ("exp_avg", "exp_avg_sq")
#: (Hugging Face name, where a float32 tensor that Adam steps holds elements of that parameter).
_Masters = Iterator[tuple[str, Span]]


@torch.no_grad()
def load_state(engine: Any, state: LearnerState) -> None:
    """Weights and optimizer state into `engine` (DeepSpeed's, over AdamW). Collective under ZeRO 1 to 3.

    Raises ConfigError if `state` is of another model.
    """
    shapes = {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in _trained(engine.module)
    }
    if shapes != dict(state.shapes):
        differing = sorted(set(shapes.items()) ^ set(state.shapes.items()))
        raise ConfigError(f"the checkpoint is of another model: {differing[0][0]} differs; set model.path back")
    if hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):
        _load_zero_3(engine, state)
    elif hasattr(engine.optimizer, "update_lp_params"):
        _copy(engine.optimizer.optimizer, _zero_1_2_masters(engine), state)
        engine.optimizer.update_lp_params()
    else:
        _copy(engine.optimizer, _masters(engine), state)


def set_hyperparameters(engine: Any, learner: LearnerConfig) -> None:
    """What `learner` says about the optimizer, in place of the numbers that DeepSpeed found in a checkpoint.

    The learning rate is not among them: every update sets it.
    """
    for group in engine.optimizer.param_groups:
        group.update(betas=learner.betas, eps=learner.eps, weight_decay=learner.weight_decay)
    if hasattr(engine.optimizer, "clip_grad"):
        engine.optimizer.clip_grad = engine.gradient_clipping()


def _trained(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield hugging_face_name(name), parameter


def _copy(adam: torch.optim.Optimizer, masters: _Masters, state: LearnerState) -> None:
    for name, span in masters:
        targets: dict[Quantity, Tensor] = {"weight": span.flat}
        if state.step == 0:
            adam.state.pop(span.flat, None)
        else:
            moments = adam.state[span.flat]
            for quantity in _MOMENTS:
                targets[quantity] = moments.setdefault(quantity, torch.zeros_like(span.flat))
            # Fused AdamW reads it on the weight's device.
            moments.setdefault("step", torch.zeros((), device=span.flat.device)).fill_(float(state.step))
        for quantity, target in targets.items():
            values = state.read(quantity, name, span.start, span.start + span.count)
            target.view(-1)[span.flat_start : span.flat_start + span.count].copy_(values)


def _masters(engine: Any) -> _Masters:
    for name, parameter in _trained(engine.module):
        yield name, Span(flat=parameter, flat_start=0, start=0, count=parameter.numel())


def _zero_1_2_masters(engine: Any) -> _Masters:
    # One float32 tensor per parameter group; each parameter knows which of its elements that tensor holds.
    flats = [group["params"][0] for group in engine.optimizer.optimizer.param_groups]
    for name, parameter in _trained(engine.module):
        mapping = parameter._hp_mapping
        if mapping is not None:
            address = mapping.hp_fragment_address
            start = mapping.lp_fragment_address.start
            flat = flats[mapping.param_group_index]
            yield name, Span(flat=flat, flat_start=address.start, start=start, count=address.numel)


def _load_zero_3(engine: Any, state: LearnerState) -> None:
    optimizer = engine.optimizer
    # Small parameters are kept whole for the forward pass; they too are remade from the new shares.
    optimizer.checkpoint_event_prologue()
    _copy(optimizer.optimizer, _zero_3_masters(engine), state)
    for subgroup in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(subgroup)
    optimizer.checkpoint_event_epilogue()


def _zero_3_masters(engine: Any) -> _Masters:
    rank = torch.distributed.get_rank()
    names = {parameter: name for name, parameter in _trained(engine.module)}
    groups = zip(engine.optimizer.fp32_partitioned_groups_flat, engine.optimizer.fp16_groups, strict=True)
    for flat, parameters in groups:
        offset = 0
        for parameter in parameters:
            share = parameter.partition_numel()
            # The last ranks' shares are padded, or all padding.
            count = max(0, min(share, parameter.ds_numel - rank * share))
            yield names[parameter], Span(flat=flat, flat_start=offset, start=rank * share, count=count)
            offset += share
