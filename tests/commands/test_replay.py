"""A recorded step gives the same numbers on one process as it gave on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles.command_line import call
from doubles.ranks import Ranks, join
from doubles.tiny_learner import make_config, make_groups, make_model, score

from actors import cli
from actors.commands.replay import ReplayedNumber, merged_shards, replay_step
from actors.engines.deepspeed.micro_batch import forward_tensors
from actors.engines.deepspeed.policy import load_policy
from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.data.packing import pack_sequences
from maspo_dist.errors import ConfigError
from maspo_dist.runs.checkpoint import LEARNER_FOLDER
from maspo_dist.runs.step_record import StepRecord, StepRecords

RUNS = ("run", "adapters")


def _config(folder: Path, name: str) -> TrainConfig:
    """The run `adapters` has some, at ZeRO-3, on the devices of its engines."""
    lora, zero_stage, layout = ({"rank": 4}, 3, "colocated") if name == "adapters" else (None, 2, "separate")
    return make_config(
        folder / "model",
        run={"name": name, "dir": str(folder), "max_steps": 4},
        learner={"lr": 1e-3, "threads": 1, "ranks": 2, "zero_stage": zero_stage, "lora": lora},
        algorithm={"kl": {"coefficient": 0.1}, "correction": {"kind": "tis"}},
        rollout={"workers": 2},
        cluster={"layout": layout},
        logging={"record_steps": "last:1"},
    )


def _record_the_second_batch(rank: int, world_size: int, address: str, folder: Path) -> None:
    from actors.engines.deepspeed.engine import DeepSpeedEngine

    for name in RUNS:
        config = _config(folder, name)
        engine = DeepSpeedEngine(config, "cpu", rank, world_size, address)
        _record(engine, config, rank, world_size)
    engine.close()


def _record(engine: Any, config: TrainConfig, rank: int, world_size: int) -> None:
    import torch.distributed

    run = config.run.dir / config.run.name
    records = StepRecords(run / "steps", config.logging.recorded_steps)
    for step in (1, 2):
        groups = make_groups(seed=step)
        batch = lay_out_batch(step, score(groups), mini_batches=4, ranks=world_size, micro_batch_tokens=128)
        if rank == 0:
            records.begin(step)
        torch.distributed.barrier()
        part = run / "steps" / f".part-{step:06d}"
        engine.save(part / LEARNER_FOLDER)
        metrics = engine.update(batch.shards[rank], batch.loss_tokens, batch.loss_sequences, dict(enumerate(groups)))
        by_rank = [None] * world_size
        torch.distributed.all_gather_object(by_rank, engine.frozen_logprobs())
        if rank == 0:
            logprobs = tuple(entry for entries in by_rank for entry in entries)  # type: ignore[union-attr]
            record = StepRecord(batch=batch, groups=tuple(groups), logprobs=logprobs, metrics=metrics)
            records.commit(part, record, dump_config(config))
            (run / "config.yaml").write_text(dump_config(config))


def _replay_the_second_step(rank: int, world_size: int, address: str, run: Path) -> None:
    """`maspo-dist replay` as the only work of a process."""
    result = call("replay", str(run), "--step", "2")
    assert result.returncode == 0, result.stdout + result.stderr
    (run / "replayed.txt").write_text(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    make_model(folder / "model")
    join(Ranks(2, _record_the_second_batch, folder))
    return folder


@pytest.fixture(params=RUNS)
def run(folder: Path, request: pytest.FixtureRequest) -> Path:
    return folder / str(request.param)


def test_a_step_of_two_ranks_replays_on_one_process_to_the_same_numbers(run: Path) -> None:
    join(Ranks(1, _replay_the_second_step, run))
    lines = (run / "replayed.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines[1:-1]]
    assert {"learner/grad_norm", "policy/kl_k3", "ratio/max", "gate/mean", "logprobs/old,", "logprobs/ref,"} <= {*names}
    assert "learner/tokens_per_s" not in names
    assert f"{len(names)} of {len(names)} numbers agree within 0.001; furthest apart is" in lines[-1]


def test_the_record_holds_every_response_and_what_was_frozen(run: Path) -> None:
    record = StepRecords(run / "steps").read(2)
    refs = {
        (ref.group_id, ref.sample) for shard in record.batch.shards for mini in shard for micro in mini for ref in micro
    }
    lengths = {
        (group.group_id, i): rollout.response_ids.size
        for group in record.groups
        for i, rollout in enumerate(group.rollouts)
    }
    assert {(entry.group_id, entry.sample) for entry in record.logprobs} == refs
    for entry in record.logprobs:
        assert entry.ref is not None
        assert entry.old.shape == entry.ref.shape == (lengths[entry.group_id, entry.sample],)
        assert not (entry.old == entry.ref).all()
    plain = load_policy(_config(run.parent, run.name).model)
    for entry in record.logprobs[:4]:
        [group] = [group for group in record.groups if group.group_id == entry.group_id]
        response = group.rollouts[entry.sample].response_ids
        sequence = np.concatenate([group.prompt.token_ids, response])
        tokens = forward_tensors(
            pack_sequences([sequence], [np.arange(group.prompt.token_ids.size, sequence.size)]), torch.device("cpu")
        )
        with torch.no_grad():
            logprobs, _, _ = plain(tokens=tokens, temperature=1.0)
        np.testing.assert_allclose(entry.ref, logprobs.numpy(), atol=1e-5)


def test_a_step_without_a_record_is_refused_with_the_recorded_steps(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"step 1 was not recorded, recorded are 2: set logging\.record_steps to all"):
        replay_step(run, 1)


def number(recorded: float, recomputed: float) -> ReplayedNumber:
    return ReplayedNumber(name="x", recorded=recorded, recomputed=recomputed, tolerance=1e-3)


def test_numbers_agree_relative_to_their_size_and_near_zero_absolutely() -> None:
    assert number(100.0, 100.09).agrees
    assert not number(100.0, 100.11).agrees
    assert number(0.0, 9e-6).agrees
    assert not number(0.0, 2e-5).agrees
    assert number(float("nan"), float("nan")).agrees
    assert not number(1.0, float("nan")).agrees
    assert not number(float("nan"), 1.0).agrees


def test_a_difference_is_marked_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.commands.replay.replay_step", lambda run, step: [number(1.0, 1.0), number(1.0, 2.0)])
    with pytest.raises(cli.typer.Exit) as ended:
        cli.replay(tmp_path, 3)
    assert ended.value.exit_code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("differs") for line in lines] == [False, False, True, False]
    assert lines[-1] == "1 of 2 numbers agree within 0.001; furthest apart is x, by 1.0e+00"


def test_merged_shards_hold_every_response_once_in_its_mini_batch() -> None:
    batch = lay_out_batch(1, score(make_groups()), mini_batches=4, ranks=3, micro_batch_tokens=128)
    merged = merged_shards(batch)
    assert len(merged) == 4
    for index, mini in enumerate(merged):
        ours = [ref for micro in mini for ref in micro]
        theirs = [ref for shard in batch.shards for micro in shard[index] for ref in micro]
        assert ours == theirs
        assert len(set(ours)) == len(ours)
