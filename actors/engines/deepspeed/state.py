"""What a learner checkpoint holds, read on the CPU and independent of the layout that wrote it.

    DeepSpeed's shard files (memory-mapped)          LearnerState
    ZeRO 0        mp_rank_00_model_states.pt     ─┐
    ZeRO 1, 2     *_optim_states.pt, flat over    ├─► name → float32 weight, exp_avg, exp_avg_sq; step
                  ranks, with a map of fragments  │
    ZeRO 3        *_optim_states.pt, each         │
                  parameter cut over ranks       ─┘

Only the elements that a caller asks for are read from disk.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from actors.engines.deepspeed.config import import_deepspeed
from maspo_dist.errors import ConfigError

#: Name of DeepSpeed's own folder inside the learner's.
TAG = "learner"
LAYOUT_FILE = "layout.json"

Quantity = Literal["weight", "exp_avg", "exp_avg_sq"]
QUANTITIES: tuple[Quantity, ...] = ("weight", "exp_avg", "exp_avg_sq")

_PREFIX = "causal_lm."
_NO_STEP: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Elements [start, start + count) of a parameter, from element `flat_start` on of a tensor that holds them."""

    flat: Tensor
    flat_start: int
    start: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """Weights and optimizer state of what is trained, by Hugging Face name, tied parameters once; all float32.

    Adapters have the names of `lora.LoraLinear`.

    dtype     of the model's weights in training
    batches   trained on
    step      Adam's count of optimizer steps; at 0 the moments are 0
    shapes    of the parameters, in the model's order
    """

    dtype: str
    batches: int
    step: int
    shapes: Mapping[str, tuple[int, ...]]
    spans: Mapping[Quantity, Mapping[str, Sequence[Span]]]

    def read(self, quantity: Quantity, name: str, start: int = 0, end: int | None = None) -> Tensor:
        """Elements [start, end) of a flat parameter: f32[end − start], a copy. KeyError for an unknown name."""
        size = math.prod(self.shapes[name])
        end = size if end is None else end
        values = torch.zeros(end - start)
        for span in self.spans[quantity].get(name, ()):
            first, last = max(start, span.start), min(end, span.start + span.count)
            if first < last:
                offset = span.flat_start - span.start
                values[first - start : last - start].copy_(span.flat.detach()[first + offset : last + offset])
        return values

    def whole(self, quantity: Quantity, name: str) -> Tensor:
        """A parameter in its shape."""
        return self.read(quantity, name).view(self.shapes[name])

    def weight(self, name: str, dtype: torch.dtype) -> Tensor:
        """A weight in its shape, rounded to `dtype`."""
        return self.whole("weight", name).to(dtype)


def read_layout(folder: Path) -> dict[str, Any]:
    """What DeepSpeedEngine.save wrote about the layout. Raises ConfigError if `folder` holds no learner checkpoint."""
    try:
        layout: dict[str, Any] = json.loads((folder / LAYOUT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no learner checkpoint ({LAYOUT_FILE} is missing)") from None
    return layout


def require_same_training(folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ConfigError if the layout `saved` of the checkpoint `folder` is of other numbers than `wanted`."""
    export = "or export the checkpoint and start a new run from it"
    if saved["dtype"] != wanted["dtype"]:
        raise ConfigError(
            f"checkpoint {folder} was trained in {saved['dtype']}, but model.dtype is {wanted['dtype']}: "
            f"set model.dtype={saved['dtype']}, {export}"
        )
    if saved.get("lora") != wanted.get("lora"):
        before, now = (json.dumps(layout.get("lora")) for layout in (saved, wanted))
        raise ConfigError(
            f"checkpoint {folder} was trained with learner.lora {before}, but learner.lora is {now}: set it back, "
            f"{export}"
        )


def open_learner_state(folder: Path) -> LearnerState:
    """The state that DeepSpeedEngine.save left in `folder`, under any number of ranks and any ZeRO stage.

    Raises ConfigError if files are missing or do not cover every parameter.
    """
    dtype = read_layout(folder)["dtype"]
    import_deepspeed(torch.device("cpu"))
    models = _shards(folder / TAG, "*_model_states.pt")
    optimizers = _shards(folder / TAG, "*_optim_states.pt")
    if not models:
        raise ConfigError(f"{folder / TAG} holds no *_model_states.pt: the checkpoint is not whole")
    if not optimizers:
        shapes, spans, step = _unpartitioned(models[0])
    else:
        states = [shard["optimizer_state_dict"] for shard in optimizers]
        counted = states[0]["partition_count"]
        ranks = max(counted) if isinstance(counted, list) else counted
        if ranks != len(states):
            raise ConfigError(f"checkpoint {folder}: written by {ranks} ranks, but files of {len(states)} are there")
        read = _zero_3 if "fp32_flat_groups" in states[0] else _zero_1_2
        shapes, spans, step = read(models[0], states)
    _require_whole(folder, shapes, spans, step)
    return LearnerState(dtype=dtype, batches=int(models[0]["batches"]), step=step, shapes=shapes, spans=spans)


def hugging_face_name(name: str) -> str:
    """The name that a parameter of `Policy` has in the model's folder."""
    return name.removeprefix(_PREFIX)


_Shapes = dict[str, tuple[int, ...]]
_Spans = dict[Quantity, dict[str, list[Span]]]


def _shards(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The files of all ranks, by rank; tensors stay on disk until they are read."""

    def rank(path: Path) -> int:
        after = path.name.partition("pp_rank_")[2]
        return int(after.partition("_")[0]) if after else 0

    try:
        return [
            torch.load(path, map_location="cpu", mmap=True, weights_only=False)
            for path in sorted(folder.glob(pattern), key=rank)
        ]
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"checkpoint {folder} cannot be read: {error}") from None


def _empty() -> _Spans:
    return {"weight": {}, "exp_avg": {}, "exp_avg_sq": {}}


def _unpartitioned(model: Mapping[str, Any]) -> tuple[_Shapes, _Spans, int]:
    """ZeRO 0: the optimizer counts parameters as the model lists them, tied ones once."""
    names, seen = [], set()
    for name, tensor in model["module"].items():
        if name not in model["buffer_names"] and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            names.append(name)
    shapes: _Shapes = {}
    spans = _empty()
    states = model["optimizer"]["state"]
    for index, full_name in enumerate(names):
        name, weight = hugging_face_name(full_name), model["module"][full_name]
        shapes[name] = tuple(weight.shape)
        for quantity, tensor in _quantities(weight, states.get(index, _NO_STEP)):
            if tensor.shape != weight.shape:
                raise ConfigError(f"checkpoint: {quantity} of {name} has shape {tuple(tensor.shape)}")
            whole = Span(flat=tensor.reshape(-1), flat_start=0, start=0, count=tensor.numel())
            spans[quantity][name] = [whole]
    return shapes, spans, _adam_step(states)


def _zero_1_2(model: Mapping[str, Any], optimizers: Sequence[Mapping[str, Any]]) -> tuple[_Shapes, _Spans, int]:
    """ZeRO 1 and 2: each rank's file lists the fragments that its flat tensors hold."""
    shapes = _shapes(model)
    spans = _empty()
    reached = dict.fromkeys(shapes, 0)
    for optimizer in optimizers:
        states = optimizer["base_optimizer_state"]
        if not isinstance(states, dict):
            raise ConfigError("checkpoint: written with zero_optimization.elastic_checkpoint, which is not supported")
        for group, fragments in enumerate(optimizer["param_slice_mappings"]):
            flat = optimizer["single_partition_of_fp32_groups"][group]
            quantities = list(_quantities(flat, states["state"].get(group, _NO_STEP)))
            for full_name, address in fragments.items():
                name = hugging_face_name(full_name)
                for quantity, tensor in quantities:
                    span = Span(flat=tensor, flat_start=address.start, start=reached[name], count=address.numel)
                    spans[quantity].setdefault(name, []).append(span)
                reached[name] += address.numel
    return shapes, spans, _adam_step(optimizers[0]["base_optimizer_state"]["state"])


def _zero_3(model: Mapping[str, Any], optimizers: Sequence[Mapping[str, Any]]) -> tuple[_Shapes, _Spans, int]:
    """ZeRO 3: each rank holds an equal share of each parameter, padded at the end, in subgroups end to end."""
    shapes = _shapes(model)
    spans = _empty()
    for rank, optimizer in enumerate(optimizers):
        states = optimizer["optimizer_state_dict"]["state"]
        subgroups = [
            list(_quantities(flat, states.get(index, _NO_STEP)))
            for index, flat in enumerate(optimizer["fp32_flat_groups"])
        ]
        subgroup, offset = 0, 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            share = math.ceil(size / len(optimizers))
            while offset == subgroups[subgroup][0][1].numel():
                subgroup, offset = subgroup + 1, 0
            start = rank * share
            for quantity, tensor in subgroups[subgroup]:
                span = Span(flat=tensor, flat_start=offset, start=start, count=max(0, min(share, size - start)))
                spans[quantity].setdefault(name, []).append(span)
            offset += share
    return shapes, spans, _adam_step(optimizers[0]["optimizer_state_dict"]["state"])


def _shapes(model: Mapping[str, Any]) -> _Shapes:
    return {hugging_face_name(name): tuple(shape) for group in model["param_shapes"] for name, shape in group.items()}


def _quantities(weight: Tensor, state: Mapping[str, Any]) -> Iterator[tuple[Quantity, Tensor]]:
    yield "weight", weight
    if state:
        yield "exp_avg", state["exp_avg"]
        yield "exp_avg_sq", state["exp_avg_sq"]


def _adam_step(states: Mapping[Any, Mapping[str, Any]]) -> int:
    steps = {int(state["step"]) for state in states.values()}
    if len(steps) > 1:
        raise ConfigError(f"checkpoint: optimizer steps differ between parameters ({min(steps)} to {max(steps)})")
    return steps.pop() if steps else 0


def _require_whole(folder: Path, shapes: _Shapes, spans: _Spans, step: int) -> None:
    for quantity in QUANTITIES if step > 0 else QUANTITIES[:1]:
        for name, shape in shapes.items():
            reached = 0
            for span in spans[quantity].get(name, ()):
                reached = span.start + span.count if span.start <= reached else reached
                if span.count < 0 or span.flat_start + span.count > span.flat.numel():
                    raise ConfigError(f"checkpoint {folder}: {quantity} of {name} lies outside its file")
            if reached != math.prod(shape):
                raise ConfigError(f"checkpoint {folder}: {quantity} of {name} is not whole; is a rank's file missing?")
