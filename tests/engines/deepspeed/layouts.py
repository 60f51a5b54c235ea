"""What is trained in which layout, and the process groups that do it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from doubles.ranks import Ranks, join
from doubles.tiny_learner import make_config, make_groups, score

from maspo_dist.algorithm import logprobs
from maspo_dist.config import TrainConfig

LONGEST = 71
_BUDGETS = {1: "one by one", LONGEST: "1x", 2 * LONGEST: "2x", 8 * LONGEST: "8x"}

#: The algorithm section of each variant.
ALGORITHMS: Mapping[str, dict[str, Any]] = {
    "maspo": {},
    "bapo": {"loss": {"kind": "bapo"}, "advantage": {"entropy": {}}},
    "gspo": {"loss": {"kind": "gspo"}, "aggregate": "seq-mean-token-mean", "correction": {"kind": "sequence_mask"}},
    "kl loss": {"kl": {"coefficient": 0.1}, "entropy_bonus": 0.01, "correction": {"kind": "tis"}},
    "kl reward": {"kl": {"coefficient": 0.5, "place": "reward"}, "aggregate": "seq-mean-token-sum"},
    "rollout": {"old_logprobs": "rollout", "loss": {"kind": "clip", "dual_clip": 3.0}},
    **{kind: {"loss": {"kind": kind}} for kind in ("sapo", "cispo", "dac", "dppo")},
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    ranks: int
    zero_stage: int
    micro_batch_tokens: int = 2 * LONGEST
    shuffled: bool = False
    gradient_checkpointing: bool = False
    #: Optimizer and, at ZeRO 3, parameters to CPU memory.
    offload: bool = False
    dtype: str = "float32"
    algorithm: str = "maspo"
    model: str = "model"
    #: Batches trained on; from the second on the reference model differs from the policy.
    batches: int = 1
    #: Old log-probabilities of the first mini-batch by a forward of their own.
    old_beforehand: bool = False
    #: Adapters are trained, all other weights frozen.
    lora: bool = False
    #: Ranks that share the tokens of each micro-batch.
    sequence_parallel: int = 1

    @property
    def name(self) -> str:
        extras = " shuffled" * self.shuffled + " checkpointed" * self.gradient_checkpointing
        extras += " offloaded" * self.offload + " bfloat16" * (self.dtype == "bfloat16")
        extras += " old beforehand" * self.old_beforehand + " lora" * self.lora
        extras += f" {self.sequence_parallel} share" if self.sequence_parallel > 1 else ""
        budget = _BUDGETS[self.micro_batch_tokens]
        return f"{self.algorithm}, {self.model}, {self.ranks} ranks, ZeRO {self.zero_stage}, {budget}{extras}"


@dataclass(frozen=True)
class Trained:
    """What `train` left in its folder."""

    folder: Path

    def change(self, layout: Layout) -> np.ndarray:
        """All parameters after training minus before, one after the other."""
        with np.load((self.folder / layout.name).with_suffix(".npz")) as arrays:
            return np.concatenate([arrays[name].ravel().astype(np.float64) for name in sorted(arrays.files)])

    def parameter_names(self, layout: Layout) -> list[str]:
        with np.load((self.folder / layout.name).with_suffix(".npz")) as arrays:
            return list(arrays.files)

    def metrics(self, layout: Layout) -> dict[str, float]:
        """Of the last batch."""
        metrics: dict[str, float] = self._record(layout)["metrics"]
        return metrics

    def fused_losses(self, layout: Layout) -> int:
        """Micro-batches of rank 0 whose gradients were taken in forward."""
        count: int = self._record(layout)["fused_losses"]
        return count

    def has_reference(self, layout: Layout) -> bool:
        """Whether a reference model was loaded."""
        loaded: bool = self._record(layout)["has_reference"]
        return loaded

    def distance(self, layout: Layout, reference: Layout) -> float:
        """‖change − reference change‖ / ‖reference change‖."""
        return relative_distance(self.change(layout), self.change(reference))

    def _record(self, layout: Layout) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / layout.name).with_suffix(".json").read_text())
        return record


def relative_distance(change: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(change - wanted) / np.linalg.norm(wanted))


def train(folder: Path, layouts: list[Layout]) -> Trained:
    """Trains every layout, on groups of one, two and four processes, side by side."""
    sizes = sorted({layout.ranks for layout in layouts})
    join(*(Ranks(ranks, _train, folder, [layout for layout in layouts if layout.ranks == ranks]) for ranks in sizes))
    return Trained(folder)


def layout_config(folder: Path, layout: Layout) -> TrainConfig:
    return make_config(
        folder / layout.model,
        model={"path": str(folder / layout.model), "dtype": layout.dtype, "device": "cpu"},
        algorithm=ALGORITHMS[layout.algorithm],
        logging={"record_steps": "all" if layout.sequence_parallel > 1 else "none"},
        learner={
            "ranks": layout.ranks,
            "sequence_parallel": layout.sequence_parallel,
            "zero_stage": layout.zero_stage,
            "gradient_checkpointing": layout.gradient_checkpointing,
            "lora": {"rank": 4, "alpha": 8} if layout.lora else None,
            # Where a gradient is near zero, Adam would make a whole step of its rounding error, which differs from CPU
            # to CPU.
            "eps": 1e-5,
            "offload_optimizer": "cpu" if layout.offload else "none",
            "offload_parameters": "cpu" if layout.offload and layout.zero_stage == 3 else "none",
            # Or a model this small would never be partitioned.
            "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
        },
    )


def _train(rank: int, world_size: int, address: str, folder: Path, layouts: list[Layout]) -> None:
    from actors.engines.deepspeed.engine import DeepSpeedEngine
    from actors.weights.layout import entry_of
    from maspo_dist.data.batching import lay_out_batch

    class OldBeforehand(DeepSpeedEngine):
        def _with_frozen(self, micro: Any, *, is_first: bool) -> Any:
            return super()._with_frozen(micro, is_first=False)

    groups = make_groups()
    fused = _record_fused_losses()
    for layout in layouts:
        fused.clear()
        config = layout_config(folder, layout)
        engine = (OldBeforehand if layout.old_beforehand else DeepSpeedEngine)(config, "cpu", rank, world_size, address)
        scored = score(groups)
        batch = lay_out_batch(
            0,
            scored[::-1] if layout.shuffled else scored,
            mini_batches=config.algorithm.mini_batches,
            ranks=config.learner.data_parallel,
            micro_batch_tokens=layout.micro_batch_tokens,
        )
        before, entries = {}, []
        for name, tensor in engine.named_weights():
            before[name] = tensor.float().numpy().copy()
            entries.append(entry_of(name, tensor))
        assert engine.weight_entries() == entries
        bodies = {group.group_id: group for group in groups}
        for _ in range(layout.batches):
            shard = batch.shards[rank // layout.sequence_parallel]
            metrics = engine.update(shard, batch.loss_tokens, batch.loss_sequences, bodies)
        if layout.sequence_parallel > 1:
            recorded = sum(map(len, (micro for mini in shard for micro in mini)))
            assert len(engine.frozen_logprobs()) == (0 if rank % layout.sequence_parallel else recorded)
        after = {name: tensor.float().numpy().copy() for name, tensor in engine.named_weights()}
        if rank == 0:
            stem = folder / layout.name
            np.savez(stem.with_suffix(".npz"), **{name: after[name] - before[name] for name in before})
            record = {
                "layout": asdict(layout),
                "metrics": metrics,
                "fused_losses": len(fused),
                "has_reference": engine._reference is not None,
            }
            stem.with_suffix(".json").write_text(json.dumps(record))
    engine.close()


def _record_fused_losses() -> list[None]:
    """Grows with every call of `linear_loss` in this process."""
    calls: list[None] = []
    linear_loss = logprobs.linear_loss

    def recorded(*arguments: Any) -> Any:
        calls.append(None)
        return linear_loss(*arguments)

    logprobs.linear_loss = recorded
    return calls
