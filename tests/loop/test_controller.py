"""The loop: every prompt ends once, every update is published, every step leaves its numbers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from loop_fakes import FakeLearners, FakePool, NumberedPrompts, make_config, make_prompt

from actors.controller import Controller, Progressed, probe_sequences
from actors.evaluator import Evaluator
from actors.group_stream import GroupStream
from maspo_dist.checkpoint import CheckpointStore, RunState, read_state
from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.console import open_console
from maspo_dist.flow.ledger import Ledger
from maspo_dist.metrics import open_metrics
from maspo_dist.run_folder import RunFolder


class Digits:
    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))


async def run(tmp_path: Path, config: TrainConfig, pool: FakePool, learners: FakeLearners) -> RunFolder:
    with RunFolder.create(tmp_path / "run", dump_config(config)) as folder, open_console("run", 3) as console:
        ledger = Ledger()
        prompts = NumberedPrompts()
        controller = Controller(
            config,
            pool=pool,
            learners=learners,
            stream=GroupStream(config, pool, prompts, ledger, on_progress=lambda _: None),
            ledger=ledger,
            evaluator=Evaluator(config, pool, {"held_out": [make_prompt(1), make_prompt(2)]}),
            checkpoints=CheckpointStore(folder.checkpoints_path),
            probes=probe_sequences([[1, 2, 3]], 1, 3),
            decoder=Digits(),
            folder=folder,
            metrics=open_metrics(folder, config.logging, {}),
            console=console,
        )
        await controller.run(Progressed())
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_every_step_updates_publishes_and_leaves_a_line(tmp_path: Path) -> None:
    pool, learners = FakePool(), FakeLearners()
    folder = await run(tmp_path, make_config(), pool, learners)
    assert [batch.step for batch in learners.batches] == [1, 2, 3]
    assert pool.published == [0, 1, 2, 3]
    metrics = rows(folder.metrics_path)
    assert [row["step"] for row in metrics] == [1, 2, 3]
    for row in metrics:
        assert row["reward/mean"] == 0.5
        assert row["policy/age_max"] == 0
        assert row["sync/max_logprob_gap"] == pytest.approx(1e-6)
        assert row["learner/grad_norm"] == 1.0
        parts = ("generate", "verify", "update", "publish")
        assert row["time/step_s"] >= sum(row[f"time/{part}_s"] for part in parts) - 1e-6


async def test_every_admitted_prompt_is_in_the_ledger_once(tmp_path: Path) -> None:
    pool = FakePool()
    pool.rewards[5] = [1.0, 1.0]
    folder = await run(tmp_path, make_config(algorithm={"max_policy_age": 1}), pool, FakeLearners())
    ledger = rows(folder.ledger_path)
    assert sorted(row["group_id"] for row in ledger) == [request.group_id for request in pool.requests]
    outcomes = {row["group_id"]: (row["outcome"], row["reason"]) for row in ledger}
    assert outcomes[5] == ("dropped", "zero_variance")
    assert [group for group, (outcome, _) in outcomes.items() if outcome == "pending"] == [12, 13, 14, 15]


async def test_policy_age_stays_within_the_bound_and_reaches_it(tmp_path: Path) -> None:
    config = make_config(algorithm={"max_policy_age": 1}, run={"max_steps": 3})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    assert {row["policy/age_max"] for row in rows(folder.metrics_path)} == {0, 1}


async def test_a_batch_that_teaches_nothing_leaves_the_policy_as_it_is(tmp_path: Path) -> None:
    pool, learners = FakePool(), FakeLearners()
    for group_id in range(4, 8):
        pool.rewards[group_id] = [0.0, 0.0]
    folder = await run(tmp_path, make_config(), pool, learners)
    assert [batch.step for batch in learners.batches] == [1, 3]
    assert pool.published == [0, 1, 2]
    assert [row["policy/version"] for row in rows(folder.metrics_path)] == [1, 1, 2]


async def test_evaluation_comes_before_training_when_due_and_at_the_end(tmp_path: Path) -> None:
    config = make_config(evaluation={"every": 2})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    evaluated = [row["step"] for row in rows(folder.metrics_path) if "eval/held_out/avg@1" in row]
    assert evaluated == [0, 2, 3]


async def test_samples_are_written_with_prompt_verdict_and_text(tmp_path: Path) -> None:
    config = make_config(logging={"sample_groups": 1})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    samples = rows(folder.samples_path)
    assert len(samples) == 3 * 2
    assert samples[0]["prompt"] == "1 2 3"
    assert [row["status"] for row in samples[:2]] == ["wrong", "correct"]


async def test_two_runs_of_one_seed_leave_equal_numbers(tmp_path: Path) -> None:
    def numbers(path: Path) -> list[dict]:
        return [
            {name: value for name, value in row.items() if not name.startswith("time/") and "per_s" not in name}
            for row in rows(path)
        ]

    first = await run(tmp_path / "a", make_config(), FakePool(), FakeLearners())
    second = await run(tmp_path / "b", make_config(), FakePool(), FakeLearners())
    assert numbers(first.metrics_path) == numbers(second.metrics_path)


async def test_a_checkpoint_points_at_the_first_group_that_no_batch_consumed(tmp_path: Path) -> None:
    config = make_config(algorithm={"max_policy_age": 1}, checkpoint={"every": 2})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    newest, _ = CheckpointStore(folder.checkpoints_path).newest()
    assert newest is not None
    assert newest.name == "step-000003"
    cursor = NumberedPrompts().state
    expected = RunState(step=3, policy_version=3, next_group=12, cursor=replace(cursor, position=12))
    assert read_state(newest) == expected


def test_probes_are_cut_from_the_prompts_end_to_end() -> None:
    probes = probe_sequences([[1, 2, 3], [4, 5], [6, 7, 8]], count=2, tokens=4)
    assert [probe.token_ids.tolist() for probe in probes] == [[1, 2, 3, 4], [5, 6, 7, 8]]
