"""The loop: every prompt ends once, every update is published, every step writes its metrics."""

import asyncio
import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from doubles.loop import FakeLearners, FakePool, make_config, make_controller

from actors.interfaces import Body, PublishReport, WeightUpdate
from actors.weights.probes import probe_sequences
from maspo_dist.config import TrainConfig
from maspo_dist.errors import BodyLostError, LearnerLostError, WeightSyncError
from maspo_dist.runs.checkpoint import CheckpointStore, read_finished, read_state
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import JsonLog
from maspo_dist.types import TrainingBatch, UpdateReport
from maspo_dist.views.console import open_console


async def run(tmp_path: Path, config: TrainConfig, pool: FakePool, learners: FakeLearners) -> RunFolder:
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        assert await make_controller(config, folder, pool, learners, console).run(None)
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_every_step_updates_publishes_and_writes_a_row(tmp_path: Path) -> None:
    pool, learners = FakePool(), FakeLearners()
    folder = await run(tmp_path, make_config(), pool, learners)
    assert learners.steps == [1, 2, 3]
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
    assert len(outcomes) == 12
    assert {outcome for outcome, _ in outcomes.values()} == {"trained", "dropped"}


async def test_policy_age_stays_within_the_bound_and_reaches_it(tmp_path: Path) -> None:
    config = make_config(algorithm={"max_policy_age": 1}, run={"max_steps": 3})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    assert {row["policy/age_max"] for row in rows(folder.metrics_path)} == {0, 1}


async def test_a_batch_without_training_groups_leaves_the_policy_unchanged(tmp_path: Path) -> None:
    pool, learners = FakePool(), FakeLearners()
    for group_id in range(4, 8):
        pool.rewards[group_id] = [0.0, 0.0]
    folder = await run(tmp_path, make_config(), pool, learners)
    assert learners.steps == [1, 3]
    assert pool.published == [0, 1, 2]
    assert [row["policy/version"] for row in rows(folder.metrics_path)] == [1, 1, 2]


async def test_weights_that_a_worker_does_not_hold_end_the_run_before_its_policy_is_scored(tmp_path: Path) -> None:
    class StalePool(FakePool):
        async def publish(self, update: WeightUpdate) -> PublishReport:
            raise WeightSyncError("rollout worker 0 does not hold policy version 0")

    pool = StalePool()
    with pytest.raises(WeightSyncError):
        await run(tmp_path, make_config(evaluation={"every": 1}), pool, FakeLearners())
    assert pool.requests == []
    assert list(RunFolder(tmp_path / "run").read_metrics()) == []


async def test_evaluation_comes_before_training_when_due_and_at_the_end(tmp_path: Path) -> None:
    config = make_config(evaluation={"every": 2})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    lines = [(row["step"], "eval/held_out/avg@1" in row) for row in rows(folder.metrics_path)]
    assert lines == [(0, True), (1, False), (2, False), (2, True), (3, False), (3, True)]
    merged = list(folder.read_metrics())
    assert [row["step"] for row in merged if "eval/held_out/avg@1" in row] == [0, 2, 3]
    assert [row["step"] for row in merged if "reward/mean" in row] == [1, 2, 3]


async def test_samples_are_written_with_prompt_verdict_and_text(tmp_path: Path) -> None:
    config = make_config(logging={"sample_groups": 1})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    samples = rows(folder.samples_path)
    assert len(samples) == 3 * 2
    assert samples[0]["prompt"] == "1 2 3"
    assert [row["status"] for row in samples[:2]] == ["wrong", "correct"]


async def test_two_runs_with_the_same_seed_write_equal_numbers(tmp_path: Path) -> None:
    def numbers(path: Path) -> list[dict]:
        return [
            {name: value for name, value in row.items() if not name.startswith("time/") and "per_s" not in name}
            for row in rows(path)
        ]

    first = await run(tmp_path / "a", make_config(), FakePool(), FakeLearners())
    second = await run(tmp_path / "b", make_config(), FakePool(), FakeLearners())
    assert numbers(first.metrics_path) == numbers(second.metrics_path)


async def test_a_checkpoint_holds_every_group_that_no_batch_consumed(tmp_path: Path) -> None:
    config = make_config(algorithm={"max_policy_age": 1}, checkpoint={"every": 2}, run={"max_steps": 4})
    folder = await run(tmp_path, config, FakePool(), FakeLearners())
    newest, _ = CheckpointStore(folder.checkpoints_path).newest()
    assert newest is not None
    assert newest.name == "step-000004"
    assert read_state(newest).stream.pending == ()
    assert read_state(newest).start_gap == pytest.approx(1e-7)
    older = newest.with_name("step-000002")
    state = read_state(older)
    assert (state.step, state.policy_version) == (2, 2)
    assert [group.group_id for group in state.stream.pending] == list(range(8, 16))
    assert [group.drawn_at.position for group in state.stream.pending] == list(range(8, 16))
    assert state.stream.next_group == state.stream.cursor.position == 16
    assert {group.body.group_id for group in read_finished(older)} <= set(range(8, 16))


def test_probes_are_cut_from_the_prompts_end_to_end() -> None:
    probes = probe_sequences([[1, 2, 3], [4, 5], [6, 7, 8]], count=2, tokens=4)
    assert [probe.tolist() for probe in probes] == [[1, 2, 3, 4], [5, 6, 7, 8]]


def numbers(folder: RunFolder) -> list[dict]:
    """metrics.jsonl without times."""
    return [
        {name: value for name, value in row.items() if not name.startswith("time/") and "per_s" not in name}
        for row in rows(folder.metrics_path)
    ]


@pytest.mark.parametrize("age", [0, 1])
async def test_after_a_lost_learner_the_run_continues_with_equal_numbers(tmp_path: Path, age: int) -> None:
    config = make_config(
        algorithm={"max_policy_age": age},
        run={"max_steps": 6},
        checkpoint={"every": 2},
        evaluation={"every": 3},
        cluster={"restart_backoff_s": 0},
    )
    undisturbed = await run(tmp_path / "a", config, FakePool(), FakeLearners())
    learners = FakeLearners()
    learners.failures = {2: LearnerLostError("learner rank 1 died"), 6: LearnerLostError("learner rank 0 died")}
    disturbed = await run(tmp_path / "b", config, FakePool(), learners)
    assert learners.restarts == 2
    events = rows(disturbed.events_path)
    assert [row["message"] for row in events if row["kind"] == "learner_lost"] == [
        "learner rank 1 died; restarts from the start, 1 steps again",
        "learner rank 0 died; restarts from step 4, 1 steps again",
    ]
    assert sum(row["kind"] == "learner_recovered" for row in events) == 2
    ledger = rows(disturbed.ledger_path)
    assert sorted(row["group_id"] for row in ledger) == list(range(24))
    if age == 0:
        assert numbers(disturbed) == numbers(undisturbed)
        assert ledger == rows(undisturbed.ledger_path)


async def test_a_step_that_always_loses_its_learner_ends_the_run_whatever_the_time_between(
    tmp_path: Path,
) -> None:
    class LostAtStepTwo(FakeLearners):
        async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
            if batch.step == 2:
                raise LearnerLostError("learner rank 0: update (step 2): no answer within 3600 s")
            return await super().update(batch, bodies)

    config = make_config(cluster={"restart_backoff_s": 0, "restart_window_s": 1e-9, "max_learner_restarts": 3})
    learners = LostAtStepTwo()
    with pytest.raises(LearnerLostError, match="step 2"):
        await run(tmp_path, config, FakePool(), learners)
    assert learners.restarts == 3


async def test_a_learner_lost_too_often_ends_the_run_with_its_cause(tmp_path: Path) -> None:
    config = make_config(cluster={"restart_backoff_s": 0, "max_learner_restarts": 1})
    learners = FakeLearners()
    learners.failures = {1: LearnerLostError("once"), 2: LearnerLostError("twice")}
    with pytest.raises(LearnerLostError, match="twice"):
        await run(tmp_path, config, FakePool(), learners)
    assert {row["outcome"] for row in rows(tmp_path / "run" / "ledger.jsonl")} == {"trained", "pending"}


async def test_a_run_that_is_asked_to_stop_saves_and_the_resumed_run_has_equal_numbers(tmp_path: Path) -> None:
    config = make_config(run={"max_steps": 4}, checkpoint={"every": 100})
    undisturbed = await run(tmp_path / "a", config, FakePool(), FakeLearners())
    pool, learners = FakePool(), FakeLearners()
    pool.holds[8] = asyncio.Event()
    path = tmp_path / "b" / "run"
    with RunFolder.create(path) as folder, open_console("run", 4) as console:
        controller = make_controller(config, folder, pool, learners, console)
        running = asyncio.create_task(controller.run(None))
        while len(pool.requests) < 12:  # noqa: ASYNC110 (a count, not an event)
            await asyncio.sleep(0)
        controller.request_stop()
        assert not await running
        newest, _ = CheckpointStore(folder.checkpoints_path).newest()
        assert newest is not None
        assert newest.name == "step-000002"
    with RunFolder.resume(path) as folder, open_console("run", 4) as console:
        folder.rewind(2)
        assert await make_controller(config, folder, FakePool(), FakeLearners(), console).run(newest)
    assert numbers(folder) == numbers(undisturbed)
    assert rows(folder.ledger_path) == rows(undisturbed.ledger_path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (a count, not an event)
            await asyncio.sleep(0)


async def test_a_batch_that_is_ready_when_the_run_is_asked_to_stop_is_not_lost(tmp_path: Path) -> None:
    """Groups 4 to 7 have ended while the update of step 1 is on; in it the run is asked to stop."""

    class StoppedInUpdate(FakeLearners):
        async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
            await until(lambda: len(pool.requests) >= 8)
            await asyncio.sleep(0.01)
            controller.request_stop()
            return await super().update(batch, bodies)

    config = make_config(algorithm={"max_policy_age": 1}, checkpoint={"every": 100})
    pool = FakePool()
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        controller = make_controller(config, folder, pool, StoppedInUpdate(), console)
        assert not await controller.run(None)
        newest, _ = CheckpointStore(folder.checkpoints_path).newest()
    assert newest is not None
    with RunFolder.resume(tmp_path / "run") as folder, open_console("run", 3) as console:
        folder.rewind(read_state(newest).step)
        assert await make_controller(config, folder, FakePool(), FakeLearners(), console).run(newest)
    assert sorted(row["group_id"] for row in rows(folder.ledger_path)) == list(range(12))


@pytest.mark.parametrize("every", [100, 2])
async def test_a_stop_does_not_wait_for_an_evaluation_and_the_resumed_run_evaluates_that_step(
    tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.controller.controller._LAST_SCORES_S", 0.01)
    config = make_config(run={"max_steps": 4}, checkpoint={"every": every}, evaluation={"every": 2})
    undisturbed = await run(tmp_path / "a", config, FakePool(), FakeLearners())
    path = tmp_path / "b" / "run"
    pool = FakePool()
    with RunFolder.create(path) as folder, open_console("run", 4) as console:
        controller = make_controller(config, folder, pool, FakeLearners(), console)
        running = asyncio.create_task(controller.run(None))
        await until(lambda: 1 in pool.published)
        pool.holds[-2] = asyncio.Event()
        if every == 100:
            pool.holds[8] = asyncio.Event()
        await until(lambda: sum(request.group_id == -2 for request in pool.requests) == 2)
        controller.request_stop()
        async with asyncio.timeout(5):
            assert not await running
        newest, _ = CheckpointStore(folder.checkpoints_path).newest()
        assert newest is not None
        assert newest.name == "step-000002"
        assert [row["step"] for row in rows(folder.metrics_path)] == [0, 1, 2]
        assert not folder.is_scored(2)
    for _ in range(2):
        # A run that resumes from this checkpoint a second time does not write the scores a second time.
        with RunFolder.resume(path) as folder, open_console("run", 4) as console:
            folder.rewind(2)
            assert await make_controller(config, folder, FakePool(), FakeLearners(), console).run(newest)
        assert numbers(folder) == numbers(undisturbed)


async def test_a_stop_waits_for_scores_that_come_soon(tmp_path: Path) -> None:
    class StoppedInUpdate(FakeLearners):
        async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
            if batch.step == 2:
                controller.request_stop()
            return await super().update(batch, bodies)

    config = make_config(checkpoint={"every": 100}, evaluation={"every": 1})
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        controller = make_controller(config, folder, FakePool(), StoppedInUpdate(), console)
        assert not await controller.run(None)
    assert [row["step"] for row in rows(folder.metrics_path) if "eval/held_out/avg@1" in row] == [0, 1, 2]


async def test_a_run_without_checkpoints_that_is_stopped_leaves_its_last_step_unscored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.controller.controller._LAST_SCORES_S", 0.01)
    config = make_config(evaluation={"every": 1})
    pool = FakePool()
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        controller = make_controller(config, folder, pool, FakeLearners(), console)
        running = asyncio.create_task(controller.run(None))
        await until(lambda: 0 in pool.published and (folder.last_step == 0))
        pool.holds |= {-1: asyncio.Event(), 4: asyncio.Event()}
        await until(lambda: sum(request.group_id == -1 for request in pool.requests) == 2)
        controller.request_stop()
        async with asyncio.timeout(5):
            assert not await running
    assert [("eval/held_out/avg@1" in row, row["step"]) for row in rows(folder.metrics_path)] == [(True, 0), (False, 1)]


async def test_a_step_whose_groups_are_lost_with_a_node_trains_on_them_sampled_again(tmp_path: Path) -> None:
    undisturbed = await run(tmp_path / "a", make_config(), FakePool(), FakeLearners())
    learners = FakeLearners()
    learners.failures = {2: BodyLostError("group 5 is gone with its node")}
    disturbed = await run(tmp_path / "b", make_config(), FakePool(), learners)
    assert numbers(disturbed) == numbers(undisturbed)
    assert rows(disturbed.ledger_path) == rows(undisturbed.ledger_path)
    assert learners.restarts == 0
    assert [row["kind"] for row in rows(disturbed.events_path)] == ["batch_taken_back"]


async def test_groups_that_learners_never_can_read_cost_restarts_of_the_learners_and_then_the_run(
    tmp_path: Path,
) -> None:
    class BlindAtStepTwo(FakeLearners):
        blind = 0

        async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
            if batch.step == 2:
                self.blind += 1
                raise BodyLostError("learner rank 0: receive: an object that it reads was lost with its node")
            return await super().update(batch, bodies)

    learners = BlindAtStepTwo()
    config = make_config(cluster={"restart_backoff_s": 0, "max_learner_restarts": 2})
    async with asyncio.timeout(30):
        with pytest.raises(LearnerLostError, match="step 2: the learners could not read its groups 4 times: learner"):
            await run(tmp_path, config, FakePool(), learners)
    assert learners.restarts == 2
    assert learners.blind == 4 * 3


async def test_a_group_lost_with_its_node_is_missing_from_the_samples_and_from_nothing_else(tmp_path: Path) -> None:
    pool = FakePool()
    pool.lost_bodies = {1}
    folder = await run(tmp_path, make_config(), pool, FakeLearners())
    assert {row["group_id"] for row in rows(folder.samples_path)} == {0, *range(2, 12)}
    assert len(rows(folder.metrics_path)) == 3


async def test_the_row_of_a_step_is_written_before_its_checkpoint(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watching(FakeLearners):
        async def save(self, folder: Path) -> None:
            seen.append(rows(tmp_path / "run" / "metrics.jsonl")[-1]["step"])
            await super().save(folder)

    await run(tmp_path, make_config(checkpoint={"every": 1}), FakePool(), Watching())
    assert seen == [1, 2, 3]


async def test_a_run_of_no_steps_saves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    checkpoint, evaluation = {"every": 2}, {"every": 1}
    none = make_config(run={"max_steps": 0}, checkpoint=checkpoint, evaluation=evaluation)
    folder = await run(tmp_path, none, FakePool(), FakeLearners())
    store = CheckpointStore(folder.checkpoints_path)
    resume, _ = store.newest()
    assert resume is not None
    assert read_state(resume).step == 0
    some = make_config(run={"max_steps": 1}, checkpoint=checkpoint, evaluation=evaluation)
    with RunFolder.resume(folder.path) as folder, open_console("run", 1) as console:
        folder.rewind(0)
        assert await make_controller(some, folder, FakePool(), FakeLearners(), console).run(resume)
    lines = [(row["step"], "eval/held_out/avg@1" in row) for row in rows(folder.metrics_path)]
    assert lines == [(0, True), (1, False), (1, True)]


async def test_a_full_disk_costs_checkpoints_and_no_step_and_the_ledger_is_whole_once_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full = False
    write = JsonLog._write

    def write_if_room(log: JsonLog, data: bytes) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(log, data)

    class Filling(FakeLearners):
        async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
            nonlocal is_full
            is_full = batch.step in (3, 4)
            return await super().update(batch, bodies)

    monkeypatch.setattr(JsonLog, "_write", write_if_room)
    config = make_config(run={"max_steps": 6}, checkpoint={"every": 2}, logging={"sample_groups": 1})
    learners = Filling()
    folder = await run(tmp_path, config, FakePool(), learners)
    assert learners.steps == [1, 2, 3, 4, 5, 6]
    assert [row["group_id"] for row in rows(folder.ledger_path)] == list(range(24))
    assert [row["step"] for row in rows(folder.samples_path)] == [step for step in range(1, 7) for _ in range(2)]
    assert CheckpointStore(folder.checkpoints_path).steps() == [2, 6]
    assert [row["message"] for row in rows(folder.events_path)] == ["step 4: ledger.jsonl cannot be written"]
