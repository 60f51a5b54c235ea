"""A learner's state into a DeepSpeed engine of any layout.

Each rank copies the ranges that its own float32 tensors hold, then the weights that the forward pass
uses are made anew from those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actors.engines.deepspeed.state import LearnerState, Quantity, hugging_face_name
from maspo_dist.errors import ConfigError

_MOMENTS: tuple[Quantity, ...] = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Elements [start, start + count) of a parameter lie at `master_start` of a float32 tensor that Adam steps."""

    name: str
    master: Tensor
    master_start: int
    start: int
    count: int


@torch.no_grad()
def load_state(engine: Any, state: LearnerState) -> None:
    """Weights and optimizer state into `engine` (DeepSpeed's, over AdamW). Collective under ZeRO 1 to 3.

    Raises ConfigError where the parameters are those of another model.
    """
    shapes = {
        hugging_face_name(name): tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in engine.module.named_parameters()
    }
    if shapes != dict(state.shapes):
        differing = sorted(set(shapes.items()) ^ set(state.shapes.items()))
        raise ConfigError(f"the checkpoint is of another model: {differing[0][0]} differs; set model.path back")
    if hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):
        _load_zero_3(engine, state)
    elif hasattr(engine.optimizer, "update_lp_params"):
        _copy(engine.optimizer.optimizer, _zero_1_2_places(engine), state)
        engine.optimizer.update_lp_params()
    else:
        _copy(engine.optimizer, _unpartitioned_places(engine), state)


def _copy(adam: torch.optim.Optimizer, places: Iterator[_Place], state: LearnerState) -> None:
    for place in places:
        targets: dict[Quantity, Tensor] = {"weight": place.master}
        if state.step == 0:
            adam.state.pop(place.master, None)
        else:
            moments = adam.state[place.master]
            for quantity in _MOMENTS:
                targets[quantity] = moments.setdefault(quantity, torch.zeros_like(place.master))
            moments.setdefault("step", torch.tensor(0.0)).fill_(float(state.step))
        for quantity, target in targets.items():
            values = state.read(quantity, place.name, place.start, place.start + place.count)
            target.view(-1)[place.master_start : place.master_start + place.count].copy_(values)


def _unpartitioned_places(engine: Any) -> Iterator[_Place]:
    for name, parameter in engine.module.named_parameters():
        yield _Place(name=hugging_face_name(name), master=parameter, master_start=0, start=0, count=parameter.numel())


def _zero_1_2_places(engine: Any) -> Iterator[_Place]:
    # One float32 tensor a parameter group; which of a parameter's elements it holds, the parameter knows.
    masters = [group["params"][0] for group in engine.optimizer.optimizer.param_groups]
    for name, parameter in engine.module.named_parameters():
        mapping = parameter._hp_mapping
        if mapping is not None:
            yield _Place(
                name=hugging_face_name(name),
                master=masters[mapping.param_group_index],
                master_start=mapping.hp_fragment_address.start,
                start=mapping.lp_fragment_address.start,
                count=mapping.hp_fragment_address.numel,
            )


def _load_zero_3(engine: Any, state: LearnerState) -> None:
    optimizer = engine.optimizer
    # Small parameters are kept whole for the forward pass; they too must come from the new shares.
    optimizer.checkpoint_event_prologue()
    _copy(optimizer.optimizer, _zero_3_places(engine), state)
    for subgroup in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(subgroup)
    optimizer.checkpoint_event_epilogue()


def _zero_3_places(engine: Any) -> Iterator[_Place]:
    rank = torch.distributed.get_rank()
    names = {parameter: hugging_face_name(name) for name, parameter in engine.module.named_parameters()}
    for subgroup, parameters in enumerate(engine.optimizer.fp16_groups):
        offset = 0
        for parameter in parameters:
            share = parameter.partition_numel()
            start = rank * share
            # The last ranks' shares are padded, or all padding.
            count = max(0, min(share, parameter.ds_numel - start))
            yield _Place(
                name=names[parameter],
                master=engine.optimizer.fp32_partitioned_groups_flat[subgroup],
                master_start=offset,
                start=start,
                count=count,
            )
            offset += share
