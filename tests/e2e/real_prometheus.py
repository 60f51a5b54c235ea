"""A real Prometheus on this machine, by the files of deploy/monitoring/, and what it must read of a run."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from doubles.live_run import ROOT

from maspo_dist.runs.catalogue import EVENTS, METRICS, labelled
from maspo_dist.runs.folder import RunFolder

MONITORING = ROOT / "deploy/monitoring"
#: What Grafana puts in place of its variables, for a run of this name.
RUN = "watched"
_VARIABLES = {"$__rate_interval": "1m", "$run": RUN}
#: A series, by its name and its labels.
Series = tuple[str, tuple[tuple[str, str], ...]]


def prometheus_programs() -> Path:
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

    def of_run(self) -> dict[Series, float]:
        """The newest value of every series of the run RUN."""
        return self.values(f'{{run="{RUN}", __name__=~"maspo_.+"}}')

    def resets(self) -> set[float]:
        """How often the counters of the run RUN fell, each number once."""
        counters = {metric.prometheus for metric in METRICS if metric.type == "counter"} | {"maspo_events_total"}
        return {fell for name in counters for fell in self.values(f'resets({name}{{run="{RUN}"}}[1h])').values()}

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self._url}/-/ready", timeout=5).close()
        except OSError:
            return False
        return True


@contextmanager
def watching(runs: Path, folder: Path) -> Iterator[Prometheus]:
    """Prometheus by deploy/monitoring/prometheus.yml, with the user's `run.dir` and a scrape each second.

    Its own data goes to `folder`.
    """
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
        process = subprocess.Popen([prometheus_programs() / "prometheus", *options], stdout=out, stderr=out)
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
    """The queries of the dashboard, for the run RUN."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    every = [one for panel in panels for one in (panel, *panel.get("panels", ()))]
    return [_filled_in(target["expr"]) for panel in every for target in panel.get("targets", ())]


def _filled_in(query: str) -> str:
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query
