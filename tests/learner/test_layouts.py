"""One batch, many layouts, one result: real DeepSpeed processes, ragged responses, four optimizer steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from fixtures import make_config, make_groups, make_model, score
from ranks import Ranks

MINI_BATCHES = 4
LONGEST = 71
#: Of the whole change of the parameters, in the Euclidean norm.
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Layout:
    ranks: int
    zero_stage: int
    micro_batch_tokens: int = 2 * LONGEST
    shuffled: bool = False
    gradient_checkpointing: bool = False

    @property
    def name(self) -> str:
        budget = {1: "one by one", LONGEST: "1x", 2 * LONGEST: "2x", 8 * LONGEST: "8x"}[self.micro_batch_tokens]
        extras = " shuffled" * self.shuffled + " checkpointed" * self.gradient_checkpointing
        return f"{self.ranks} ranks, ZeRO {self.zero_stage}, {budget}{extras}"


REFERENCE = Layout(ranks=1, zero_stage=0, micro_batch_tokens=1)
OTHERS = (
    Layout(ranks=1, zero_stage=0, micro_batch_tokens=8 * LONGEST),
    Layout(ranks=1, zero_stage=1, shuffled=True),
    Layout(ranks=1, zero_stage=2, gradient_checkpointing=True),
    Layout(ranks=1, zero_stage=3, micro_batch_tokens=1),
    Layout(ranks=2, zero_stage=0),
    Layout(ranks=2, zero_stage=1),
    Layout(ranks=2, zero_stage=2),
    Layout(ranks=2, zero_stage=2, micro_batch_tokens=1),
    Layout(ranks=2, zero_stage=2, micro_batch_tokens=LONGEST),
    Layout(ranks=2, zero_stage=2, micro_batch_tokens=8 * LONGEST),
    Layout(ranks=2, zero_stage=2, shuffled=True),
    Layout(ranks=2, zero_stage=3),
    Layout(ranks=2, zero_stage=3, micro_batch_tokens=1),
    Layout(ranks=2, zero_stage=3, gradient_checkpointing=True),
)


def train_layouts(rank: int, world_size: int, address: str, folder: Path, layouts: list[Layout]) -> None:
    """Runs in every rank; rank 0 leaves the changed parameters and the metrics of each layout."""
    from actors.engines.deepspeed import DeepSpeedEngine
    from maspo_dist.data.batching import lay_out_batch

    groups = make_groups()
    for layout in layouts:
        config = make_config(
            folder / "model",
            learner={
                "ranks": world_size,
                "zero_stage": layout.zero_stage,
                "gradient_checkpointing": layout.gradient_checkpointing,
                "lr": 1e-3,
                "threads": 1,
                # Or a model this small would never be partitioned.
                "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
            },
        )
        engine = DeepSpeedEngine(config, rank, world_size, address)
        scored = score(groups)
        batch = lay_out_batch(
            0,
            scored[::-1] if layout.shuffled else scored,
            mini_batches=MINI_BATCHES,
            ranks=world_size,
            micro_batch_tokens=layout.micro_batch_tokens,
        )
        before = {name: tensor.numpy().copy() for name, tensor in engine.named_weights()}
        bodies = {group.group_id: group for group in groups}
        metrics = engine.update(batch.shards[rank], batch.loss_tokens, batch.loss_sequences, bodies)
        after = {name: tensor.numpy().copy() for name, tensor in engine.named_weights()}
        if rank == 0:
            stem = folder / layout.name
            np.savez(stem.with_suffix(".npz"), **{name: after[name] - before[name] for name in before})
            stem.with_suffix(".json").write_text(json.dumps({"layout": asdict(layout), "metrics": metrics}))
    engine.close()


@dataclass(frozen=True)
class Trained:
    folder: Path

    def change(self, layout: Layout) -> np.ndarray:
        with np.load((self.folder / layout.name).with_suffix(".npz")) as arrays:
            return np.concatenate([arrays[name].ravel().astype(np.float64) for name in sorted(arrays.files)])

    def metrics(self, layout: Layout) -> dict[str, float]:
        return json.loads((self.folder / layout.name).with_suffix(".json").read_text())["metrics"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("layouts")
    make_model(folder / "model")
    both = [
        Ranks(ranks, train_layouts, folder, [layout for layout in (REFERENCE, *OTHERS) if layout.ranks == ranks])
        for ranks in (1, 2)
    ]
    for ranks in both:
        ranks.join()
    yield Trained(folder)


@pytest.mark.parametrize("layout", OTHERS, ids=lambda layout: layout.name)
def test_parameters_change_alike_in_every_layout(trained: Trained, layout: Layout) -> None:
    reference, change = trained.change(REFERENCE), trained.change(layout)
    assert np.linalg.norm(reference) > 0.05
    assert np.linalg.norm(change - reference) <= TOLERANCE * np.linalg.norm(reference)


@pytest.mark.parametrize("layout", OTHERS, ids=lambda layout: layout.name)
def test_metrics_do_not_depend_on_the_layout(trained: Trained, layout: Layout) -> None:
    reference, metrics = trained.metrics(REFERENCE), trained.metrics(layout)
    assert metrics.keys() == reference.keys()
    timed = {"learner/tokens_per_s"}
    for name in reference.keys() - timed:
        assert metrics[name] == pytest.approx(reference[name], rel=1e-4, abs=1e-6), name
