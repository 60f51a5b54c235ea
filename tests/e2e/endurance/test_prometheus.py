"""A real Prometheus, by the files of deploy/monitoring/, reads a run of the loop over fakes, and its resume."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from doubles.live_run import ROOT
from doubles.loop import FakeLearners, FakePool, make_config, make_controller

from maspo_dist.runs.catalogue import EVENTS, METRICS, labelled
from maspo_dist.runs.exporter import open_exporter
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import LiveStatus
from maspo_dist.views.console import open_console

MONITORING = ROOT / "deploy/monitoring"
#: What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$run": "watched"}
#: A series, by its name and its labels.
Series = tuple[str, tuple[tuple[str, str], ...]]


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of `prometheus` and `promtool`: those on the PATH, or those of Debian's package, unpacked."""
    if found := shutil.which("prometheus"):
        return Path(found).parent
    folder = ROOT / ".cache/prometheus"
    if not (folder / "usr/bin/prometheus").exists():
        assert shutil.which("apt-get"), "no prometheus on the PATH, and no apt-get to download Debian's package"
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "-qq", "download", "prometheus"], cwd=folder, check=True, timeout=240)
        [package] = folder.glob("prometheus_*.deb")
        subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=folder, check=True, timeout=240)
    return folder / "usr/bin"


class Prometheus:
    """A live Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **values: str) -> Any:
        """`data` of the answer, which must be a good one."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(values)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{values}: {error.read().decode()}") from None

    def values(self, expression: str) -> dict[Series, float]:
        """The value of every series that `expression` gives, the labels of the scrape aside."""
        values = {}
        for found in self.ask("query", query=expression)["result"]:
            labels = {name: value for name, value in found["metric"].items() if name not in ("job", "instance", "run")}
            values[labels.pop("__name__", ""), tuple(sorted(labels.items()))] = float(found["value"][1])
        return values

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self._url}/-/ready", timeout=5).close()
        except OSError:
            return False
        return True


@contextmanager
def watching(programs: Path, runs: Path, folder: Path) -> Iterator[Prometheus]:
    """Prometheus by deploy/monitoring/prometheus.yml, with the user's `run.dir` and a scrape each second."""
    text = (MONITORING / "prometheus.yml").read_text()
    for given, wanted in {"/shared/runs": str(runs), "15s": "1s", "/tmp/ray": str(folder / "no-ray")}.items():
        assert given in text
        text = text.replace(given, wanted)
    folder.mkdir()
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(MONITORING / "alerts.yml", folder)
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    options += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([programs / "prometheus", *options], stdout=out, stderr=out)
    prometheus = Prometheus(port)
    try:
        deadline = time.monotonic() + 60
        while not prometheus.is_ready():
            assert process.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline, "Prometheus is not ready within 60 s"
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wanted(folder: RunFolder) -> dict[Series, float]:
    """By metrics.jsonl and events.jsonl: the newest value of each gauge, the sum of each counter."""
    values: dict[Series, float] = {}
    for row in folder.read_metrics():
        for name, value in row.items():
            if name == "step":
                continue
            metric, labels = labelled(name)
            series = metric.prometheus, tuple(sorted(zip(metric.labels, labels, strict=True)))
            before = values.get(series, 0.0) if metric.type == "counter" else 0.0
            values[series] = before + (math.nan if value is None else value)
    kinds = [event["kind"] for event in folder.read_events()]
    return values | {("maspo_events_total", (("kind", kind),)): kinds.count(kind) for kind in EVENTS}


def dashboard_queries() -> list[str]:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    every = [one for panel in panels for one in (panel, *panel.get("panels", ()))]
    return [target["expr"] for panel in every for target in panel.get("targets", ())]


def filled_in(query: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


async def train(folder: RunFolder, prometheus: Prometheus, port: int, steps: int, newest: Path | None) -> None:
    """A session of the run; at its end Prometheus has every number of it, to the last digit."""
    sections: dict[str, dict[str, Any]] = {"run": {"name": "watched", "max_steps": steps}, "checkpoint": {"every": 1}}
    config = make_config(logging={"tensorboard": False, "prometheus_port": port}, evaluation={"every": 2}, **sections)
    with open_exporter(folder, config) as exporter, open_console("watched", steps) as console:
        assert exporter is not None
        controller = make_controller(config, folder, FakePool(), FakeLearners(), console, more=(exporter,))
        assert await controller.run(newest)
        exporter.observe(LiveStatus(time=0.0, standing=controller.standing, workers=(), waits=()))
        # Prometheus takes up new targets every 5 s.
        async with asyncio.timeout(60):
            while prometheus.values("maspo_run_step").get(("maspo_run_step", ())) != steps:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        found = prometheus.values('{run="watched", __name__=~"maspo_.+"}')
        values = wanted(folder)
        assert {series: found.get(series) for series in values} == pytest.approx(values, rel=0, abs=0, nan_ok=True)
        for query in dashboard_queries():
            prometheus.ask("query", query=filled_in(query, VARIABLES))


async def test_prometheus_reads_every_number_of_a_run_and_its_counters_go_on_over_a_resume(
    programs: Path, tmp_path: Path
) -> None:
    """Prometheus would take another port for another run."""
    runs, port = tmp_path / "runs", free_port()
    with watching(programs, runs, tmp_path / "prometheus") as prometheus, RunFolder.create(runs / "watched") as folder:
        folder.write_config("run: {}\n")
        await train(folder, prometheus, port, 3, None)
        await train(folder, prometheus, port, 6, folder.checkpoints_path / "step-000003")
        counters = {metric.prometheus for metric in METRICS if metric.type == "counter"} | {"maspo_events_total"}
        resets = [prometheus.values(f'resets({name}{{run="watched"}}[1h])').values() for name in counters]
        assert {value for of_counter in resets for value in of_counter} == {0.0}
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert "firing" not in {rule["state"] for rule in rules}


def test_the_rules_are_valid_and_each_alert_fires_when_it_must_and_only_then(programs: Path) -> None:
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        checked = subprocess.run([programs / "promtool", *command], cwd=MONITORING, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = subprocess.run(
        [programs / "promtool", "test", "rules", "alerts_test.yml"], cwd=MONITORING, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "SUCCESS" in tested.stdout
