"""Checkpoints of many layouts, each loaded under others, by real process groups."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from doubles.ranks import DEADLINE_S, Ranks, join
from doubles.tiny_learner import make_config, make_groups, score

from maspo_dist.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    ranks: int
    zero_stage: int
    dtype: str = "float32"
    model: str = "model"
    #: ZeRO 3 keeps smaller parameters whole; the default of the tests partitions every one.
    persistent_elements: int = 0
    #: Adapters are trained, all other weights frozen.
    lora: bool = False
    #: Ranks that share the tokens of each micro-batch.
    sequence_parallel: int = 1

    @property
    def name(self) -> str:
        kept = f"-kept{self.persistent_elements}" if self.persistent_elements else ""
        kept += "-lora" * self.lora + "-shared" * (self.sequence_parallel > 1)
        return f"{self.model}-{self.ranks}-zero{self.zero_stage}-{self.dtype}{kept}"


def layout_config(folder: Path, layout: Layout) -> TrainConfig:
    return make_config(
        folder / layout.model,
        model={"path": str(folder / layout.model), "dtype": layout.dtype, "device": "cpu"},
        learner={
            "lr": 1e-3,
            "threads": 1,
            "ranks": layout.ranks,
            "sequence_parallel": layout.sequence_parallel,
            "zero_stage": layout.zero_stage,
            "warmup_steps": 4,
            "lora": {"rank": 4, "alpha": 8} if layout.lora else None,
            "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": layout.persistent_elements}},
        },
    )


def save_and_resume(folder: Path, layouts: list[Layout], resumes: list[tuple[Layout, Layout]]) -> None:
    """Trains a batch under each layout and saves `NAME`; goes on for another one: `NAME/after.npz`.

    Where an engine can leave its device, it is saved while it rests.

    Then loads each (saved, other) pair, saves at once as `SAVED-to-OTHER`, and goes on likewise.
    """
    barrier = multiprocessing.get_context("spawn").Barrier(3)
    join(*(Ranks(ranks, _work, folder, layouts, resumes, barrier) for ranks in (1, 2)))


def _work(
    rank: int,
    world_size: int,
    address: str,
    folder: Path,
    layouts: list[Layout],
    resumes: list[tuple[Layout, Layout]],
    barrier: Any,
) -> None:
    from actors.engines.deepspeed.engine import DeepSpeedEngine
    from actors.engines.deepspeed.offload import MOVABLE_STAGES

    for layout in layouts:
        if layout.ranks == world_size:
            engine = DeepSpeedEngine(layout_config(folder, layout), "cpu", rank, world_size, address)
            _update(engine, rank, layout)
            leaves_device = layout.zero_stage in MOVABLE_STAGES
            if leaves_device:
                engine.rest()
            engine.save(folder / layout.name)
            weights_at_save = _weights(engine)
            if leaves_device:
                engine.wake()
            _update(engine, rank, layout)
            after = _weights(engine)
            if rank == 0:
                np.savez(folder / layout.name / "at_save.npz", **weights_at_save)
                np.savez(folder / layout.name / "after.npz", **after)
    barrier.wait(DEADLINE_S)
    for saved, other in resumes:
        if other.ranks == world_size:
            engine = DeepSpeedEngine(layout_config(folder, other), "cpu", rank, world_size, address)
            engine.load(folder / saved.name)
            assert engine.policy_version == 1
            drawn = torch.rand(1).item()
            copy = folder / f"{saved.name}-to-{other.name}"
            engine.save(copy)
            (copy / f"drawn-{rank}.txt").write_text(repr(drawn))
            _update(engine, rank, other)
            after = _weights(engine)
            if rank == 0:
                np.savez(copy / "after.npz", **after)
    engine.close()


def _update(engine: Any, rank: int, layout: Layout) -> None:
    from maspo_dist.data.batching import lay_out_batch

    groups = make_groups(seed=engine.policy_version)
    shards = layout.ranks // layout.sequence_parallel
    batch = lay_out_batch(0, score(groups), mini_batches=4, ranks=shards, micro_batch_tokens=128)
    bodies = {group.group_id: group for group in groups}
    engine.update(batch.shards[rank // layout.sequence_parallel], batch.loss_tokens, batch.loss_sequences, bodies)


def _weights(engine: Any) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy().copy() for name, tensor in engine.named_weights()}
