"""A real Prometheus, by the files of deploy/monitoring/, reads a run of the loop over fakes, and its resume."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
from doubles.loop import FakeLearners, FakePool, make_config, make_controller
from real_prometheus import (
    MONITORING,
    RUN,
    Prometheus,
    dashboard_queries,
    free_port,
    prometheus_programs,
    wanted,
    watching,
)

from maspo_dist.runs.exporter import open_exporter
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import LiveStatus
from maspo_dist.views.console import open_console


async def train(folder: RunFolder, prometheus: Prometheus, port: int, steps: int, newest: Path | None) -> None:
    """A session of the run; at its end Prometheus has every number of it, to the last digit."""
    sections: dict[str, dict[str, Any]] = {"run": {"name": RUN, "max_steps": steps}, "checkpoint": {"every": 1}}
    config = make_config(logging={"tensorboard": False, "prometheus_port": port}, evaluation={"every": 2}, **sections)
    with open_exporter(folder, config) as exporter, open_console(RUN, steps) as console:
        assert exporter is not None
        controller = make_controller(config, folder, FakePool(), FakeLearners(), console, more=(exporter,))
        assert await controller.run(newest)
        exporter.observe(LiveStatus(time=0.0, standing=controller.standing, workers=(), waits=()))
        # Prometheus takes up new targets every 5 s.
        async with asyncio.timeout(60):
            while prometheus.values("maspo_run_step").get(("maspo_run_step", ())) != steps:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        found = prometheus.of_run()
        values = wanted(folder)
        assert {series: found.get(series) for series in values} == pytest.approx(values, rel=0, abs=0, nan_ok=True)
        for query in dashboard_queries():
            prometheus.ask("query", query=query)


async def test_prometheus_reads_every_number_of_a_run_and_its_counters_go_on_over_a_resume(tmp_path: Path) -> None:
    """Prometheus would take another port for another run."""
    runs, port = tmp_path / "runs", free_port()
    with watching(runs, tmp_path / "prometheus") as prometheus, RunFolder.create(runs / RUN) as folder:
        folder.write_config("run: {}\n")
        await train(folder, prometheus, port, 3, None)
        await train(folder, prometheus, port, 6, folder.checkpoints_path / "step-000003")
        assert prometheus.resets() == {0.0}
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert "firing" not in {rule["state"] for rule in rules}


def test_the_rules_are_valid_and_each_alert_fires_when_it_must_and_only_then() -> None:
    promtool = prometheus_programs() / "promtool"
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        checked = subprocess.run([promtool, *command], cwd=MONITORING, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"], cwd=MONITORING, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "SUCCESS" in tested.stdout
