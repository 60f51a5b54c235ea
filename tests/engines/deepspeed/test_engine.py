"""What the engine promises beside the update: checkpoints, probes, weights, silence."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles.ranks import Ranks, join, printed_by_imports
from doubles.tiny_learner import VOCABULARY, make_config, make_groups, make_model, score
from transformers import AutoModelForCausalLM

from maspo_dist.config import TrainConfig

CASES = ((2, "float32"), (3, "float32"), (1, "bfloat16"), (0, "bfloat16"))


def _config(model: Path, zero_stage: int, dtype: str) -> TrainConfig:
    return make_config(
        model,
        model={"path": str(model), "dtype": dtype, "device": "cpu"},
        rollout={"prompts_per_step": 8, "max_response_tokens": 64, "group_size": 4, "temperature": 0.7},
        learner={
            "ranks": 2,
            "zero_stage": zero_stage,
            "warmup_steps": 2,
            "schedule": "cosine",
            "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
        },
    )


def probes() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in (2, 17, 40)]


def _save_and_go_on_twice(rank: int, world_size: int, address: str, folder: Path) -> None:
    from actors.engines.deepspeed.engine import DeepSpeedEngine
    from maspo_dist.data.batching import lay_out_batch
    from maspo_dist.errors import ConfigError

    os.dup2(os.open(folder / f"printed-{rank}.txt", os.O_WRONLY | os.O_CREAT), 1)
    groups = make_groups()
    bodies = {group.group_id: group for group in groups}
    batch = lay_out_batch(0, score(groups), mini_batches=4, ranks=world_size, micro_batch_tokens=128)
    for zero_stage, dtype in CASES:
        case = folder / f"{zero_stage}-{dtype}"
        config = _config(folder / "model", zero_stage, dtype)
        first = DeepSpeedEngine(config, "cpu", rank, world_size, address)
        at_start = first.logprobs(probes())
        first.update(batch.shards[rank], batch.loss_tokens, batch.loss_sequences, bodies)
        # Each micro-batch is trained; all but those of the first optimizer step have a forward before it.
        micro_batches = [len(mini) for mini in batch.shards[rank]]
        assert first.micro_batches == sum(micro_batches) + sum(micro_batches[1:])
        first.save(case)
        drawn_after_saving = torch.rand(3)
        second = DeepSpeedEngine(config, "cpu", rank, world_size, address)
        second.load(case)
        assert second.policy_version == 1
        assert torch.equal(torch.rand(3), drawn_after_saving)
        results: dict[str, np.ndarray] = {}
        for name, engine in (("straight", first), ("resumed", second)):
            metrics = engine.update(batch.shards[rank], batch.loss_tokens, batch.loss_sequences, bodies)
            results[f"{name}/lr"] = np.array(metrics["learner/lr"])
            for key, tensor in engine.named_weights():
                results[f"{name}/{key}"] = tensor.float().numpy().copy()
        if rank == 0:
            np.savez(case / "after.npz", **results)
            np.savez(case / "probes.npz", *at_start)
    with pytest.raises(
        ConfigError, match=r"trained in float32, but model\.dtype is bfloat16: set model\.dtype=float32"
    ):
        first.load(folder / "3-float32")
    _fill_the_disk_of_one_rank(first, rank, folder)
    with pytest.raises(ConfigError, match="no learner checkpoint"):
        first.load(folder / "nowhere")
    first.close()
    assert "torch._inductor.compile_fx" not in sys.modules, "torch's compiler was imported, which takes seconds"


def _resume_with_other_hyperparameters(rank: int, world_size: int, address: str, folder: Path) -> None:
    from actors.engines.deepspeed.engine import DeepSpeedEngine

    for zero_stage in (0, 2, 3):
        saved = {"ranks": 1, "zero_stage": zero_stage}
        first = DeepSpeedEngine(make_config(folder / "model", learner=saved), "cpu", rank, world_size, address)
        first.save(folder / f"zero-{zero_stage}")
        wanted = {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}
        changed = make_config(folder / "model", learner={**saved, **wanted, "max_grad_norm": 0.01})
        second = DeepSpeedEngine(changed, "cpu", rank, world_size, address)
        second.load(folder / f"zero-{zero_stage}")
        optimizer = second._engine.optimizer
        (group,) = optimizer.param_groups
        assert {name: group[name] for name in wanted} == wanted, zero_stage
        assert getattr(optimizer, "clip_grad", 0.01) == 0.01, zero_stage
    first.close()


def _fill_the_disk_of_one_rank(engine: Any, rank: int, folder: Path) -> None:
    """Rank 1 may write 50 kB a file; both must hear of it, and go on together."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    with pytest.raises(OSError, match=r"learner rank 1: .*rank_1_.* could not be written \(\d+ MB are free there\)"):
        engine.save(folder / "full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    engine.save(folder / "full")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    make_model(folder / "model")
    join(Ranks(2, _save_and_go_on_twice, folder))
    return folder


def test_a_resumed_engine_trains_with_the_hyperparameters_that_it_is_given(resumed: Path) -> None:
    join(Ranks(1, _resume_with_other_hyperparameters, resumed))


@pytest.mark.parametrize(("zero_stage", "dtype"), CASES)
def test_a_resumed_engine_goes_on_to_the_same_bits(resumed: Path, zero_stage: int, dtype: str) -> None:
    with np.load(resumed / f"{zero_stage}-{dtype}" / "after.npz") as after:
        straight = {name: after[name] for name in after.files if name.startswith("straight/")}
        assert len(straight) > 20
        for name, value in straight.items():
            np.testing.assert_array_equal(after[name.replace("straight/", "resumed/")], value, err_msg=name)


@pytest.mark.parametrize(("zero_stage", "dtype"), CASES)
def test_probes_are_raw_logprobs_of_the_plain_model(resumed: Path, zero_stage: int, dtype: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(resumed / "model", dtype=getattr(torch, dtype))
    with np.load(resumed / f"{zero_stage}-{dtype}" / "probes.npz") as answers, torch.no_grad():
        for sequence, answer in zip(probes(), answers.values(), strict=True):
            ids = torch.from_numpy(sequence.astype(np.int64))[None]
            wanted = model(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            np.testing.assert_allclose(answer, wanted.numpy(), atol=2e-6 if dtype == "float32" else 0.02, rtol=1e-6)


def test_libraries_print_nothing(resumed: Path) -> None:
    assert [(resumed / f"printed-{rank}.txt").read_text() for rank in range(2)] == ["", ""]
    assert printed_by_imports() == ""
