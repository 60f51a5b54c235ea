"""What the loop waits for, what it counts as work, and what it does not wait for."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from pathlib import Path

from doubles.loop import FakeLearners, FakePool, make_config, make_controller
from doubles.virtual_clock import run_virtually

from actors.controller.run_services import beside, watch
from actors.interfaces import Body
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
