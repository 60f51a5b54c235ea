"""Prometheus reads the numbers of a run: those of metrics.jsonl, its events, and its state."""

from __future__ import annotations

import json
import math
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from doubles.loop import FakeLearners, FakePool, make_config, make_controller
from prometheus_client.parser import text_string_to_metric_families

from actors.controller.run_services import beside, write_live
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ConfigError
from maspo_dist.runs.catalogue import EVENTS, LIVE_METRICS, labelled
from maspo_dist.runs.exporter import Exporter, open_exporter
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import EngineFigures, LiveStatus, Standing, WorkerStatus, read_live
from maspo_dist.runs.rows import Event
from maspo_dist.views.console import open_console

#: A sample, by its name and its labels but `run`.
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

WORKERS = (
    WorkerStatus(
        name="rollout worker 0",
        state="serving",
        version=3,
        groups_in_flight=5,
        restarts=2,
        engine=EngineFigures(
            requests_running=7, requests_waiting=1, kv_cache_share=0.25, generated_tokens=900, preemptions=4
        ),
    ),
    WorkerStatus(name="rollout worker 1", state="waiting", version=-1, groups_in_flight=0, restarts=0),
)


class StaffedPool(FakePool):
    def status(self) -> tuple[WorkerStatus, ...]:
        return WORKERS


def settings(**sections: dict[str, object]) -> TrainConfig:
    return make_config(**{"logging": {"tensorboard": False, "prometheus_port": 0}, **sections})


def scraped(exporter: Exporter) -> Samples:
    """What a scrape reads, by the library's own parser; every sample carries the name of the run."""
    assert exporter.url is not None
    with urllib.request.urlopen(exporter.url, timeout=30) as answer:
        text = answer.read().decode()
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("run") == "run"
            key = sample.name, tuple(sorted(labels.items()))
            assert key not in samples
            assert (family.type == "counter") == sample.name.endswith("_total")
            samples[key] = sample.value
    return samples


def key_of(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    metric, values = labelled(name)
    return metric.prometheus, tuple(sorted(zip(metric.labels, values, strict=True)))


def expected(rows: list[dict[str, float | None]]) -> Samples:
    """Of rows of metrics.jsonl: the last value of a gauge, the sum of a counter."""
    samples: Samples = {}
    for row in rows:
        for name, value in row.items():
            if name == "step":
                continue
            key = key_of(name)
            is_counter = labelled(name)[0].type == "counter"
            samples[key] = (samples.get(key, 0.0) if is_counter else 0.0) + (math.nan if value is None else value)
    return samples


def assert_holds(found: Samples, wanted: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]) -> None:
    assert {key: found.get(key) for key in wanted} == pytest.approx(dict(wanted), nan_ok=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config("run: {}\n")
        yield folder


async def test_every_number_of_a_run_of_the_loop_is_served_and_goes_on_over_a_resume(folder: RunFolder) -> None:
    for max_steps in (3, 5):
        config = settings(run={"max_steps": max_steps}, evaluation={"every": 2}, checkpoint={"every": 1})
        newest = None if max_steps == 3 else folder.checkpoints_path / "step-000003"
        with open_exporter(folder, config) as exporter, open_console("run", max_steps) as console:
            assert exporter is not None
            pool = StaffedPool()
            controller = make_controller(config, folder, pool, FakeLearners(), console, more=(exporter,))
            live = write_live(folder.live_path, lambda: controller.standing, pool, exporter)  # noqa: B023
            assert await beside(controller.run(newest), live)
            exporter.observe(LiveStatus(time=0.0, standing=controller.standing, workers=WORKERS, waits=()))
            samples = scraped(exporter)
            status = read_live(folder.live_path)
            assert status is not None
            assert status.metrics_url == exporter.url
        rows = list(folder.read_metrics())
        assert [row["step"] for row in rows] == list(range(max_steps + 1))
        assert_holds(samples, expected(rows))
        assert samples["maspo_verdicts_total", (("status", "correct"),)] == sum(
            row.get("verdicts/correct", 0) for row in rows
        )
        events = [event["kind"] for event in folder.read_events()]
        assert_holds(samples, {key_of(f"events/{kind}"): events.count(kind) for kind in EVENTS})
        assert samples["maspo_run_step", ()] == samples["maspo_checkpoint_step", ()] == max_steps
        assert samples["maspo_last_step_timestamp_seconds", ()] > 1.7e9
        names = {name for name, _ in samples}
        assert {metric.prometheus for metric in LIVE_METRICS} <= names


def test_the_state_of_workers_and_engines_is_served(folder: RunFolder) -> None:
    standing = Standing(
        step=4,
        phase="update",
        policy_version=4,
        groups_in_flight=6,
        groups_finished=2,
        outcomes=(),
        saved_step=None,
        is_evaluating=True,
    )
    with open_exporter(folder, settings()) as exporter:
        assert exporter is not None
        exporter.observe(LiveStatus(time=0.0, standing=standing, workers=WORKERS, waits=()))
        samples = scraped(exporter)
    first, second = (("worker", "rollout worker 0"),), (("worker", "rollout worker 1"),)
    assert_holds(
        samples,
        {
            ("maspo_run_evaluating", ()): 1,
            ("maspo_groups_in_flight", ()): 6,
            ("maspo_groups_finished", ()): 2,
            ("maspo_workers", (("state", "serving"),)): 1,
            ("maspo_workers", (("state", "waiting"),)): 1,
            ("maspo_workers", (("state", "lost"),)): 0,
            ("maspo_worker_restarts_total", first): 2,
            ("maspo_worker_policy_version", second): -1,
            ("maspo_engine_requests_running", first): 7,
            ("maspo_engine_requests_waiting", first): 1,
            ("maspo_engine_kv_cache_share", first): 0.25,
            ("maspo_engine_generated_tokens_total", first): 900,
            ("maspo_engine_preemptions_total", first): 4,
        },
    )
    assert ("maspo_engine_requests_running", second) not in samples
    assert ("maspo_checkpoint_step", ()) not in samples


def test_the_time_of_the_last_step_is_that_of_a_resume_or_of_scores_that_came_later(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a run that waited for a place, or that scored a held-out set, would look as if it stood still."""
    now_s = 1.8e9
    monkeypatch.setattr("maspo_dist.runs.exporter.time.time", lambda: now_s)

    def last_s(exporter: Exporter) -> float | None:
        return scraped(exporter).get(("maspo_last_step_timestamp_seconds", ()))

    with Exporter(folder, settings()).serve() as exporter:
        assert last_s(exporter) is None
        exporter.write(1, {"time/step_s": 1.0})
        assert last_s(exporter) == now_s
        now_s += 3600
        exporter.write(1, {"time/evaluate_s": 3600.0})
        assert last_s(exporter) == now_s
    now_s += 9 * 3600
    with Exporter(folder, settings()).serve() as exporter:
        assert last_s(exporter) == now_s


def test_counters_never_fall_when_steps_are_trained_again(folder: RunFolder) -> None:
    row = {"rollout/tokens": 10.0, "reward/mean": 0.5, "learner/grad_norm": None, "time/step_s": 1.0}
    for tokens in ((10.0, 20.0), (30.0, 40.0)):
        exporter = Exporter(folder, settings())
        with exporter.serve():
            for step, total in zip((1, 2), tokens, strict=True):
                folder.write_metrics(step, row)
                exporter.write(step, row)
                samples = scraped(exporter)
                assert samples["maspo_rollout_tokens_total", ()] == total
        assert samples["maspo_reward_mean", ()] == 0.5
        assert math.isnan(samples["maspo_learner_grad_norm", ()])
        folder.rewind(-1)


def test_a_run_that_was_not_exported_before_goes_on_from_its_metrics(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.write_metrics(step, {"rollout/tokens": 10.0, "reward/mean": step / 10})
    folder.write_event(Event(kind="worker_lost", message="lost"))
    with open_exporter(folder, settings()) as exporter:
        assert exporter is not None
        folder.write_event(Event(kind="worker_lost", message="lost again"))
        samples = scraped(exporter)
    assert_holds(
        samples,
        {
            ("maspo_rollout_tokens_total", ()): 30.0,
            ("maspo_reward_mean", ()): 0.3,
            ("maspo_events_total", (("kind", "worker_lost"),)): 2,
        },
    )


def test_prometheus_finds_the_endpoint_while_it_is_served(folder: RunFolder) -> None:
    with open_exporter(folder, settings()) as exporter:
        assert exporter is not None
        [found] = json.loads(folder.discovery_path.read_text())
        assert exporter.url == f"http://{found['targets'][0]}/metrics"
        assert exporter.url.startswith("http://127.0.0.1:")
        assert found["labels"] == {"run": "run"}
    assert not folder.discovery_path.exists()
    with pytest.raises(OSError, match="refused"):
        scraped(exporter)


def test_nothing_is_served_unless_a_port_is_set(folder: RunFolder) -> None:
    with open_exporter(folder, make_config()) as exporter:
        assert exporter is None
    assert not folder.discovery_path.exists()


def test_a_port_in_use_is_named_with_the_fix(folder: RunFolder) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"prometheus_port {port} cannot be served at 127.0.0.1 .*0 for any"):
            open_exporter(folder, settings(logging={"prometheus_port": port}))
