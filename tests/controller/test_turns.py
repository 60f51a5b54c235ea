"""Engines and learners take turns on their devices: who has them when, over steps, evaluations and losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from doubles.loop import FakeLearners, FakePool, make_config, make_controller

from actors.controller.turns import DeviceTurns
from actors.interfaces import Body, PublishReport, WeightUpdate
from maspo_dist.config import TrainConfig
from maspo_dist.errors import BodyLostError, LearnerLostError
from maspo_dist.runs.folder import RunFolder
from maspo_dist.types import GroupReport, RolloutRequest, TrainingBatch, UpdateReport
from maspo_dist.views.console import open_console


class Devices:
    """Notes what happens, and fails when engines and learners would hold the devices at once."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.engines_sleep = True
        self.learners_rest = False


class Pool(FakePool):
    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self._devices = devices

    async def sleep(self) -> None:
        self._devices.calls.append("sleep")
        self._devices.engines_sleep = True

    async def publish(self, update: WeightUpdate) -> PublishReport:
        assert self._devices.learners_rest
        self._devices.calls.append(f"publish {update.version}")
        self._devices.engines_sleep = False
        return await super().publish(update)

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        assert not self._devices.engines_sleep
        result = await super().generate(request)
        assert not self._devices.engines_sleep
        return result


class Learners(FakeLearners):
    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self._devices = devices

    async def wake(self) -> None:
        assert self._devices.engines_sleep
        self._devices.calls.append("wake")
        self._devices.learners_rest = False

    async def rest(self) -> None:
        self._devices.calls.append("rest")
        self._devices.learners_rest = True

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        assert self._devices.engines_sleep
        assert not self._devices.learners_rest
        self._devices.calls.append(f"update {batch.step}")
        return await super().update(batch, bodies)

    async def restart(self) -> None:
        assert self._devices.engines_sleep
        self._devices.calls.append("restart")
        self._devices.learners_rest = False
        await super().restart()


def colocated(**sections: object) -> TrainConfig:
    return make_config(cluster={"layout": "colocated", "restart_backoff_s": 0.0}, **sections)


async def run(tmp_path: Path, config: TrainConfig, failure: Exception | None = None) -> tuple[list[str], Pool]:
    """What happened in a run of `config`, whose second update raises `failure` once."""
    devices = Devices()
    pool, learners = Pool(devices), Learners(devices)
    if failure is not None:
        learners.failures[2] = failure
    turns = DeviceTurns(pool, learners)
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        assert await make_controller(config, folder, pool, learners, console, turns=turns).run(None)
    return devices.calls, pool


async def test_learners_update_while_engines_sleep_and_each_publish_wakes_the_engines(tmp_path: Path) -> None:
    calls, _ = await run(tmp_path, colocated(run={"max_steps": 2}))
    step = ["sleep", "wake"]
    assert calls == [
        *("rest", "publish 0"),
        *(*step, "update 1", "rest", "publish 1"),
        *(*step, "update 2", "rest", "publish 2"),
    ]


async def test_an_evaluation_ends_before_the_engines_sleep(tmp_path: Path) -> None:
    calls, pool = await run(tmp_path, colocated(run={"max_steps": 2}, evaluation={"every": 1}))
    assert [call for call in calls if call.startswith("update")] == ["update 1", "update 2"]
    assert pool.published == [0, 1, 2]


async def test_a_batch_without_training_groups_leaves_the_engines_awake(tmp_path: Path) -> None:
    devices = Devices()
    pool, learners = Pool(devices), Learners(devices)
    pool.rewards |= {group: [1.0, 1.0] for group in range(4)}
    config = colocated(run={"max_steps": 2}, algorithm={"dynamic_sampling": {"zero_variance": "drop"}})
    turns = DeviceTurns(pool, learners)
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        assert await make_controller(config, folder, pool, learners, console, turns=turns).run(None)
    assert devices.calls.count("sleep") == 1
    assert pool.published == [0, 1]


async def test_a_lost_learner_group_starts_again_while_engines_sleep(tmp_path: Path) -> None:
    calls, _ = await run(tmp_path, colocated(run={"max_steps": 2}), LearnerLostError("learner rank 0 died"))
    lost = calls.index("update 2")
    assert calls[lost : lost + 5] == ["update 2", "sleep", "restart", "rest", "publish 0"]


async def test_engines_get_weights_again_when_a_batch_was_lost_before_its_update(tmp_path: Path) -> None:
    calls, pool = await run(tmp_path, colocated(run={"max_steps": 2}), BodyLostError("a node is gone"))
    lost = calls.index("update 2")
    assert calls[lost : lost + 4] == ["update 2", "rest", "publish 1", "sleep"]
    assert pool.published == [0, 1, 1, 2]
