"""One optimizer step on one rank, and on two in several layouts; a checkpoint of two ranks read by one.

The layouts are ZeRO 2, ZeRO 3, and ZeRO 3 whose ranks share the tokens of each sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from actors.bench.gpu.responses import lay_out, random_groups
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.setting import Setting
from actors.bench.gpu.workplace import Workplace, show_only_gpu
from actors.engines.deepspeed.engine import DeepSpeedEngine
from actors.ray.on_node import free_port

_RANKS = 2
#: Largest ‖change − change on one rank‖ / ‖change on one rank‖, and the same of the gradient's norm.
_DISTANCE = {"bfloat16": 0.02, "float32": 1e-4}
#: With so large an `eps` AdamW's step is proportional to the gradient. By default it is the gradient's sign, and where
#: a gradient is nearly 0, rounding decides the sign.
_EPS, _LR = 1.0, 100.0
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How ranks share the weights and, with `sequence_parallel`, the sequences."""

    name: str
    zero_stage: int
    ranks: int = _RANKS
    sequence_parallel: int = 1


_ALONE = _Layout(name="alone", zero_stage=2, ranks=1)
_LAYOUTS = (
    _Layout(name="zero_2", zero_stage=2),
    _Layout(name="zero_3", zero_stage=3),
    _Layout(name="sequence_parallel", zero_stage=3, sequence_parallel=_RANKS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """Weights after the step, and the gradient's norm."""

    weights: Mapping[str, Tensor]
    grad_norm: float


def measure(place: Workplace) -> Measured:
    """Distances of all layouts to one rank, and of a resumed rank to the ranks that saved."""
    setting, folder = place.setting, place.folder
    model = place.make_model("sharded", setting.scale.sharded_layers)
    address = f"tcp://127.0.0.1:{free_port()}"
    spawn(_train_rank, (address, setting, folder, model), nprocs=_RANKS)  # type: ignore[no-untyped-call]
    by_layout = {layout.name: _read(folder / f"{layout.name}.pt") for layout in _LAYOUTS}
    learner = _Learner(place, model, 0, f"tcp://127.0.0.1:{free_port()}", _ALONE)
    start, alone = learner.weights(), learner.train()
    figures: dict[str, Figure] = {"ranks": _RANKS, "grad_norm": alone.grad_norm}
    limits = [Limit(figure="grad_norm", least=1e-9)]
    most = _DISTANCE[setting.dtype]
    for layout, trained in by_layout.items():
        figures[f"{layout}_distance"] = _distance(trained.weights, alone.weights, start)
        figures[f"{layout}_grad_norm_distance"] = abs(trained.grad_norm / alone.grad_norm - 1)
        limits += [Limit(figure=f"{layout}_{name}", most=most) for name in ("distance", "grad_norm_distance")]
    learner.engine.load(folder / _CHECKPOINT)
    resumed, saved = learner.weights(), by_layout[_LAYOUTS[-1].name].weights
    figures["resumed_differences"] = sum(not torch.equal(resumed[name], saved[name]) for name in saved)
    limits.append(Limit(figure="resumed_differences", most=0))
    learner.engine.close()
    return Measured(figures=figures, limits=tuple(limits))


def _train_rank(rank: int, address: str, setting: Setting, folder: Path, model: Path) -> None:
    """Runs in a fresh process: a step in each layout; the checkpoint is of the last."""
    if setting.device == "cuda":
        show_only_gpu(rank)
    place = Workplace(setting, folder)
    for layout in _LAYOUTS:
        learner = _Learner(place, model, rank, address, layout)
        trained = learner.train()
        if rank == 0:
            torch.save((trained.weights, trained.grad_norm), folder / f"{layout.name}.pt")
    learner.engine.save(folder / _CHECKPOINT)
    learner.engine.close()


class _Learner:
    """One rank, and the batch of its group."""

    def __init__(self, place: Workplace, model: Path, rank: int, address: str, layout: _Layout) -> None:
        parallel = layout.sequence_parallel
        config = place.config(
            model, eps=_EPS, lr=_LR, ranks=layout.ranks, zero_stage=layout.zero_stage, sequence_parallel=parallel
        )
        groups = random_groups(config, place.setting.scale.shape.vocabulary)
        self._bodies = {group.group_id: group for group in groups}
        self._batch = lay_out(config, groups, config.learner.data_parallel)
        self._shard = self._batch.shards[rank // parallel]
        self.engine = DeepSpeedEngine(config, place.setting.device, rank, layout.ranks, address)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the whole tensors."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.engine.named_weights()}

    def train(self) -> _Trained:
        """One optimizer step."""
        batch = self._batch
        metrics = self.engine.update(self._shard, batch.loss_tokens, batch.loss_sequences, self._bodies)
        return _Trained(weights=self.weights(), grad_norm=metrics["learner/grad_norm"])


def _read(path: Path) -> _Trained:
    weights, grad_norm = torch.load(path, weights_only=True)
    return _Trained(weights=weights, grad_norm=grad_norm)


def _distance(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """‖got − wanted‖ / ‖wanted − start‖ over all tensors."""
    return math.sqrt(_squares(got, wanted) / _squares(wanted, start))


def _squares(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    parts = ((left[name].float() - right[name].float()).square().sum(dtype=torch.float64) for name in right)
    return float(sum(parts))
