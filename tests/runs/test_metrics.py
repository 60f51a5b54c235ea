"""Metrics: names and values are checked once, then every sink gets the same numbers."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maspo_dist.config import LoggingConfig, WandbConfig
from maspo_dist.errors import ConfigError
from maspo_dist.runs import metrics
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.metrics import MetricFanout, TensorBoardSink, check_metrics, open_metrics, require_sinks
from maspo_dist.runs.rows import Event


class FullDisk:
    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        raise OSError("no space left on device")

    def close(self) -> None:
        pass


class Memory:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float | None]]] = []

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        self.rows.append((step, dict(metrics)))

    def close(self) -> None:
        pass


def test_tensorboard_lacks_only_the_steps_that_a_full_disk_refused(tmp_path: Path) -> None:
    """A write fails under a file size limit."""
    script = """
import resource, signal, sys, threading
from pathlib import Path
from maspo_dist.runs.metrics import MetricFanout, TensorBoardSink

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# The thread of the writer ends with a traceback.
threading.excepthook = lambda arguments: None
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
fanout = MetricFanout([TensorBoardSink(Path(sys.argv[1]))], print)
for step in range(1, 7):
    limit(100 if step in (3, 4) else unlimited)
    fanout.write(step, {"reward/mean": step})
fanout.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stderr.count("not written by TensorBoardSink") == 2
    assert [event.step for event in EventAccumulator(str(tmp_path)).Reload().Scalars("reward/mean")] == [1, 2, 5, 6]


@pytest.mark.parametrize("name", ["reward", "Reward/mean", "reward/", "/mean", "reward/a b", "reward//mean"])
def test_a_name_that_is_not_group_and_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not of the form group/name"):
        check_metrics({name: 1.0})


def test_names_of_this_project_pass() -> None:
    names = ["eval/aime-24/avg@4", "gate/share_below_0.99", "trust_region/pos/1e-4/token_share", "policy/kl_k3"]
    assert list(check_metrics(dict.fromkeys(names, 1.0))) == names


def test_numpy_numbers_become_plain_and_nan_becomes_null(folder: RunFolder) -> None:
    fanout = open_metrics(folder, LoggingConfig(tensorboard=False), {})
    fanout.write(3, {"reward/mean": np.float32(0.5), "learner/grad_norm": math.nan, "ratio/max": math.inf})  # type: ignore[dict-item]
    fanout.close()
    assert folder.metrics_path.read_text() == (
        '{"step": 3, "reward/mean": 0.5, "learner/grad_norm": null, "ratio/max": null}\n'
    )
    (event,) = folder.read_events()
    assert event["kind"] == "metric_not_finite"
    assert event["message"] == "not finite: learner/grad_norm (nan), ratio/max (inf)"
    assert event["step"] == 3


def test_a_sink_that_cannot_write_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    memory, events = Memory(), list[Event]()
    MetricFanout([FullDisk(), memory], events.append).write(1, {"reward/mean": 0.5})
    assert memory.rows == [(1, {"reward/mean": 0.5})]
    assert "metrics of step 1 not written by FullDisk: no space left on device" in caplog.text


def scalars(path: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    return [(point.step, point.value) for point in accumulator.Scalars(tag)]


def test_tensorboard_holds_the_same_numbers(folder: RunFolder) -> None:
    fanout = open_metrics(folder, LoggingConfig(), {})
    for step in range(4):
        fanout.write(step, {"reward/mean": step / 4, "ratio/max": math.nan})
    fanout.close()
    assert scalars(folder.tensorboard_path, "reward/mean") == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert [row["reward/mean"] for row in folder.read_metrics()] == [0.0, 0.25, 0.5, 0.75]


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    for step in range(4):
        first.write(step, {"reward/mean": 0.0})
    first.close()
    second = TensorBoardSink(tmp_path, after_step=1)
    second.write(2, {"reward/mean": 1.0})
    second.close()
    assert scalars(tmp_path, "reward/mean") == [(0, 0.0), (1, 0.0), (2, 1.0)]


def test_tensorboard_hides_what_a_run_trains_again_from_the_start(tmp_path: Path) -> None:
    for value in (0.0, 1.0):
        sink = TensorBoardSink(tmp_path)
        sink.write(1, {"reward/mean": value})
        sink.close()
    assert scalars(tmp_path, "reward/mean") == [(1, 1.0)]


class WandbModule:
    """What the sink calls of wandb, whose own step only grows: a row with a smaller step would be dropped."""

    def __init__(self) -> None:
        self.step_metrics: dict[str, str | None] = {}
        self.rows: list[dict[str, float]] = []

    def init(self, **settings: object) -> WandbModule:
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.step_metrics[name] = step_metric

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def finish(self) -> None: ...


def test_wandb_gets_the_steps_that_a_resumed_run_trains_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = WandbModule()
    monkeypatch.setattr(metrics, "_wandb", module)
    settings = LoggingConfig(tensorboard=False, wandb=WandbConfig(project="maspo"))
    fanout = open_metrics(folder, settings, {})
    fanout.write(2, {"reward/mean": 0.5})
    folder.rewind(1)
    fanout.write(2, {"reward/mean": 0.75})
    fanout.close()
    assert module.step_metrics == {"step": None, "*": "step"}
    assert module.rows == [{"step": 2, "reward/mean": 0.5}, {"step": 2, "reward/mean": 0.75}]


def test_a_missing_wandb_is_an_error_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_wandb", None)
    require_sinks(LoggingConfig())
    with pytest.raises(ConfigError, match=r"logging\.wandb is set but wandb is not installed: pip install"):
        require_sinks(LoggingConfig(wandb=WandbConfig(project="maspo")))
