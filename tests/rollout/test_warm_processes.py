"""Which processes a run may take over from an earlier run, and what of the earlier run they may not keep."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.loop import FakeEngine, FakeScorer, make_config, make_prompt, make_snapshot
from ray.util.placement_group import PlacementGroup

from actors.interfaces import ActorProcess, WeightUpdate
from actors.rollout import actor as rollout_actor
from actors.rollout.actor import RolloutActor
from actors.warm import Shelf, WarmProcesses, processes_key
from maspo_dist.config import TrainConfig
from maspo_dist.errors import WeightSyncError
from maspo_dist.types import RolloutRequest, Sampling


class Worker(RolloutActor):
    """A rollout actor in this process, whose environments are counted."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(make_config(), 0, "cpu", FakeScorer(), Path("logs"))
        self._fake = engine
        self.life: list[str] = []

    async def _make_engine(self) -> FakeEngine:
        return self._fake

    async def _make_partner(self) -> None:
        self.life.append("environments start")

    async def _end_environments(self) -> None:
        self.life.append("environments end")

    def _process(self) -> ActorProcess:
        return ActorProcess(node_id="n", pid=1)

    @property
    def belongs_to(self) -> tuple[TrainConfig, int, str, Path]:
        return self._config, self._index, self._name, self._logs_path


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files to which workers have sent their output."""
    seen: list[Path] = []
    monkeypatch.setattr(rollout_actor, "configure_logging", lambda process, folder: folder / process)
    monkeypatch.setattr(rollout_actor, "redirect_output", seen.append)
    return seen


def request() -> RolloutRequest:
    sampling = Sampling(temperature=1.0, max_response_tokens=8)
    return RolloutRequest(group_id=7, prompt=make_prompt(1), num_samples=2, sampling=sampling, seed=3)


async def publish(worker: Worker, version: int) -> None:
    probes, expected = [np.arange(5, dtype=np.int32)], [np.full(4, -0.5, np.float32)]
    snapshot = make_snapshot(version, 0.5)
    await worker.publish(WeightUpdate(snapshot=snapshot, probes=probes, expected=expected, max_mean_gap=1e-3))


async def test_a_worker_rests_once_no_request_and_no_environment_is_left() -> None:
    engine = FakeEngine()
    worker = Worker(engine)
    await worker.start_engine()
    with pytest.raises(WeightSyncError, match="rollout worker 0: its last publish was not completed"):
        await worker.rest()
    await publish(worker, 0)
    engine.gate.clear()
    serving = asyncio.create_task(worker.generate(request()))
    await asyncio.sleep(0)
    resting = asyncio.create_task(worker.rest())
    await asyncio.sleep(0.01)
    assert not resting.done()
    serving.cancel()
    await resting
    assert worker.life == ["environments start", "environments end"]
    assert not engine.closed


async def test_a_renewed_worker_serves_the_next_run_alone(logs: list[Path]) -> None:
    engine = FakeEngine()
    worker = Worker(engine)
    await worker.start_engine()
    await publish(worker, 12)
    await worker.rest()
    config = make_config(run={"name": "next"})
    await worker.renew(config, 3, FakeScorer(), Path("next"))
    assert worker.belongs_to == (config, 3, "rollout worker 3", Path("next"))
    assert logs == [Path("next/rollout-3")]
    assert worker.life == ["environments start", "environments end", "environments start"]
    serving = asyncio.create_task(worker.generate(request()))
    await asyncio.sleep(0.01)
    assert not serving.done(), "the weights are those of the last run"
    serving.cancel()
    engine.unreached = ["layers.0.bias"]
    with pytest.raises(WeightSyncError, match=r"a publish does not reach layers\.0\.bias"):
        await publish(worker, 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    return tmp_path


def config_of(model: Path, **sections: dict[str, object]) -> TrainConfig:
    return make_config(model={"path": str(model)}, **sections)


def test_runs_share_processes_whatever_they_train(model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    key = processes_key(config_of(model), "cpu")
    assert key is not None
    objective = {"loss": {"kind": "clip"}, "mini_batches": 4}
    other = config_of(model, run={"name": "other", "seed": 5}, algorithm=objective, learner={"lr": 1e-3})
    assert processes_key(other, "cpu") == key
    retrained = tmp_path_factory.mktemp("retrained")
    (retrained / "config.json").write_text("{}")
    (retrained / "model.safetensors").write_text("other weights")
    assert processes_key(config_of(retrained), "cpu") == key
    (retrained / "config.json").write_text(json.dumps({"hidden_size": 2}))
    assert processes_key(config_of(retrained), "cpu") != key


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("rollout", {"max_response_tokens": 9}),
        ("rollout", {"engine": {"max_model_len": 64}}),
        ("data", {"max_prompt_tokens": 7}),
        ("learner", {"ranks": 3}),
        ("reward", {"workers": 5}),
        ("cluster", {"environment": {"A": "1"}}),
    ],
)
def test_runs_with_other_processes_share_none(model: Path, section: str, values: dict[str, object]) -> None:
    other = processes_key(config_of(model, **{section: values}), "cpu")
    assert other is not None
    assert other != processes_key(config_of(model), "cpu")


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("rollout", {"in_flight_kv": "keep"}),
        ("rollout", {"tensor_parallel": 2}),
        ("logging", {"prometheus_port": 0}),
        ("learner", {"zero_stage": 3}),
        ("learner", {"deepspeed": {"wall_clock_breakdown": True}}),
        ("rollout", {"backend": "python:somewhere:Engine"}),
        ("sync", {"transport": "python:somewhere:Transport"}),
        ("sync", {"transport": "collective"}),
    ],
)
def test_processes_that_would_keep_something_are_not_shared(
    model: Path, section: str, values: dict[str, object]
) -> None:
    assert processes_key(config_of(model, **{section: values}), "cpu") is None


def test_an_engine_that_gets_adapters_alone_is_not_shared(model: Path) -> None:
    lora = {"learner": {"lora": {}}, "rollout": {"lora": "adapter", "prompts_per_step": 4, "max_response_tokens": 8}}
    assert processes_key(config_of(model, **lora), "cpu") is None
    merged = {**lora, "rollout": {**lora["rollout"], "lora": "merged"}}
    assert processes_key(config_of(model, **merged), "cpu") is not None


def test_the_memory_of_a_gpu_is_not_shared(model: Path) -> None:
    assert processes_key(config_of(model), "cuda") is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(WarmProcesses):
    """Kept processes that answer or not."""

    key: str = "a"
    base: PlacementGroup = field(default_factory=PlacementGroup.empty)
    learners: Sequence[Any] = ()
    workers: Sequence[Any] = ()
    verifier: Any = None
    answers: bool
    ended: list[str] = field(default_factory=list)

    async def answer(self) -> bool:
        return self.answers

    async def end(self) -> None:
        self.ended.append(self.key)


@pytest.mark.parametrize(("key", "answers", "taken"), [("a", True, True), ("b", True, False), ("a", False, False)])
async def test_kept_processes_are_taken_if_they_fit_and_answer_and_end_otherwise(
    key: str, answers: bool, taken: bool
) -> None:
    kept = Kept(answers=answers)
    shelf = Shelf(kept)
    assert (await shelf.take(key) is kept) is taken
    assert kept.ended == ([] if taken else ["a"])
    assert shelf.kept is None
