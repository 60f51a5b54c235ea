"""What the loop waits for, what it counts as work, and what it does not wait for."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from doubles.loop import FakeLearners, FakePool, make_config, make_controller
from doubles.virtual_clock import run_virtually

from actors.controller.run_services import beside, watch
from actors.interfaces import Body
from maspo_dist.errors import DeadlineError
from maspo_dist.runs.checkpoint import CheckpointStore, read_state
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.progress import Progress
from maspo_dist.runs.rows import Event
from maspo_dist.types import GroupReport, RolloutRequest, TrainingBatch, UpdateReport
from maspo_dist.views.console import PlainConsole, open_console


async def test_the_wait_for_an_evaluation_is_no_part_of_update_and_publish(tmp_path: Path) -> None:
    class SlowToScore(FakePool):
        async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
            if request.group_id < 0:
                await asyncio.sleep(0.3)
            return await super().generate(request)

    config = make_config(evaluation={"every": 1})
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        assert await make_controller(config, folder, SlowToScore(), FakeLearners(), console).run(None)
    steps = list(folder.read_metrics())[1:]
    assert steps[1]["time/evaluation_wait_s"] > 0.2
    assert steps[1]["time/publish_s"] < 0.2
    assert steps[1]["time/update_s"] < 0.2


async def test_a_run_that_is_asked_to_stop_saves_its_last_step_without_an_engine_to_publish_to(tmp_path: Path) -> None:
    class Drained(FakeLearners):
        async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
            if batch.step == 3:
                controller.request_stop()
                pool.workers = 0
            return await super().update(batch, bodies)

    config = make_config(checkpoint={"every": 100}, evaluation={"every": 1})
    pool = FakePool()
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        controller = make_controller(config, folder, pool, Drained(), console)
        assert not await controller.run(None), "the scores of the last step are missing"
    assert pool.published == [0, 1, 2]
    newest, _ = CheckpointStore(folder.checkpoints_path).newest()
    assert newest is not None
    assert read_state(newest).step == 3
    with RunFolder.resume(folder.path) as folder, open_console("run", 3) as console:
        pool.workers = 1
        assert await make_controller(config, folder, pool, FakeLearners(), console).run(newest)
    assert pool.published == [0, 1, 2, 3]
    assert folder.is_scored(3)


def test_a_checkpoint_that_takes_longer_than_a_stall_is_left_to_its_own_deadline(tmp_path: Path) -> None:
    class SlowToSave(FakeLearners):
        async def save(self, folder: Path) -> None:
            await asyncio.sleep(1500.0)
            await super().save(folder)

    config = make_config(checkpoint={"every": 1}, cluster={"stall_timeout_s": 900, "save_timeout_s": 1800})
    events: list[Event] = []

    async def no_stacks() -> None: ...

    async def watched() -> bool:
        with RunFolder.create(tmp_path / "run") as folder:
            console = PlainConsole("run", Progress(max_steps=3), io.StringIO())
            controller = make_controller(config, folder, FakePool(), SlowToSave(), console)
            watchdog = watch(config.cluster, lambda: controller.progress, no_stacks, events.append)
            return await beside(controller.run(None), watchdog)

    assert run_virtually(watched(), 10_000)
    assert events == []


def slow_commits(monkeypatch: pytest.MonkeyPatch, work: Callable[[CheckpointStore], object]) -> None:
    """From now on, `work` is done before a checkpoint is complete, in its thread."""
    commit = CheckpointStore.commit

    def slow(store: CheckpointStore, *content: Any) -> Path:
        work(store)
        return commit(store, *content)

    monkeypatch.setattr(CheckpointStore, "commit", slow)


async def test_a_checkpoint_that_is_written_past_its_deadline_costs_the_next_checkpoint_and_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    slow_commits(monkeypatch, lambda _: go.wait(30))

    class Releasing(FakeLearners):
        async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
            if batch.step == 5:
                go.set()
            return await super().update(batch, bodies)

    config = make_config(run={"max_steps": 6}, checkpoint={"every": 2}, cluster={"save_timeout_s": 1.0})
    learners = Releasing()
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 6) as console:
        assert await make_controller(config, folder, FakePool(), learners, console).run(None)
    assert learners.steps == [1, 2, 3, 4, 5, 6]
    first, *_ = folder.read_events()
    reason = "not saved, since the checkpoint before it is still being written"
    assert (first["kind"], first["message"]) == ("checkpoint_failed", f"step 4: {reason}")
    assert CheckpointStore(folder.checkpoints_path).steps() == [2, 6]


async def test_the_end_of_a_run_waits_for_a_checkpoint_while_the_disk_makes_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(store: CheckpointStore) -> None:
        for _ in range(30):
            time.sleep(0.1)
            store.last_progress_s = time.monotonic()

    slow_commits(monkeypatch, work)
    config = make_config(checkpoint={"every": 3}, cluster={"save_timeout_s": 1.0})
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        assert await make_controller(config, folder, FakePool(), FakeLearners(), console).run(None)
    assert CheckpointStore(folder.checkpoints_path).steps() == [3]
    assert list(folder.read_events()) == []


async def test_the_end_of_a_run_does_not_wait_for_ever_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    slow_commits(monkeypatch, lambda _: go.wait(30))
    config = make_config(checkpoint={"every": 3}, cluster={"save_timeout_s": 0.1})
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        controller = make_controller(config, folder, FakePool(), FakeLearners(), console)
        with pytest.raises(DeadlineError, match="checkpoint: its completion: no answer"):
            await controller.run(None)
        go.set()
        await controller.writer.drain()
