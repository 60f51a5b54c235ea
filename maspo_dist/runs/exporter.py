"""Serves the numbers of a run to Prometheus.

each second: live status ──► observe ──► values ◄── a scrape, in a thread of its own
step: metrics ─────────────► write ────────┘ │
                                             └► exported.json, read at a resume

Names, types and labels come from the catalogue. A gauge keeps the value of the last step that has one. A counter goes
on over a resume, and counts a step that is trained again once more: for Prometheus, a counter that falls is a restart.
"""

import json
import math
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Self
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import TypeAdapter, ValidationError

from maspo_dist.config import TrainConfig
from maspo_dist.errors import ConfigError
from maspo_dist.runs.catalogue import EVENTS, labelled
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import replace_text
from maspo_dist.runs.live import WORKER_STATES, LiveStatus

_VALUES_DECODER = TypeAdapter(dict[str, float | None])
_END_OF_STEP = "last_step/timestamp_s"


class Exporter(Collector):
    """The numbers of one run; implements `MetricSink`. Call `serve` to let Prometheus read them, and `stop` last."""

    def __init__(self, folder: RunFolder, config: TrainConfig) -> None:
        self.url: str | None = None
        self._folder = folder
        self._settings = config.logging
        self._fixed = {
            "run/max_steps": float(config.run.max_steps),
            "policy/age_bound": float(config.algorithm.max_policy_age),
        }
        if config.checkpoint.every is not None:
            self._fixed["checkpoint/every"] = float(config.checkpoint.every)
        self._of_steps = _earlier_values(folder)
        if _END_OF_STEP in self._of_steps:
            # The time for which the run was down is not the time of a step.
            self._of_steps = {**self._of_steps, _END_OF_STEP: time.time()}
        self._earlier_events = Counter(row["kind"] for row in folder.read_events()) - folder.events_written
        self._live: Mapping[str, float] = {}
        self._server: WSGIServer | None = None

    def serve(self) -> Self:
        """Starts to answer at `url`. Raises ConfigError for a port in use, and for a host that is not of this node."""
        host, port = self._settings.prometheus_host, self._settings.prometheus_port
        assert port is not None
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"logging.prometheus_port {port} cannot be served at {host} ({error.strerror}): choose another port, "
                "0 for any that is free, or another logging.prometheus_host"
            ) from None
        name = socket.gethostname() if host in ("0.0.0.0", "::") else host
        target = f"{f'[{name}]' if ':' in name else name}:{self._server.server_port}"
        self.url = f"http://{target}/metrics"
        found = [{"targets": [target], "labels": {"run": self._folder.name}}]
        replace_text(self._folder.discovery_path, json.dumps(found) + "\n")
        return self

    def stop(self) -> None:
        """Ends the endpoint, and takes it out of Prometheus' file discovery."""
        if self._server is not None:
            self._folder.discovery_path.unlink(missing_ok=True)
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Adds a row of metrics.jsonl."""
        values = _after(self._of_steps, metrics)
        if "time/step_s" in metrics or "time/evaluate_s" in metrics:
            values[_END_OF_STEP] = time.time()
        self._of_steps = values
        replace_text(self._folder.exported_path, json.dumps(values))

    def close(self) -> None:
        """A session of the run has ended; the next one goes on with the numbers."""

    def observe(self, live: LiveStatus) -> None:
        """Replaces the state of the run."""
        self._live = live_metrics(live)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Called by Prometheus' library, in its own thread, for each scrape."""
        # All kinds from 0 on: Prometheus does not count the first sample of a series as an increase.
        events = dict.fromkeys(EVENTS, 0) | (self._earlier_events + self._folder.events_written)
        of_events = {f"events/{kind}": float(count) for kind, count in events.items()}
        free = {"disk/free_bytes": float(shutil.disk_usage(self._folder.path).free)}
        values = {**self._fixed, **self._live, **of_events, **free, **self._of_steps}
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, value in values.items():
            metric, labels = labelled(name)
            family = families.get(metric.prometheus)
            if family is None:
                kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
                text = f"{metric.meaning} ({metric.unit})" if metric.unit else metric.meaning
                family = families[metric.prometheus] = kind(metric.prometheus, text, labels=("run", *metric.labels))
            family.add_metric((self._folder.name, *labels), math.nan if value is None else value)
        yield from families.values()


def open_exporter(folder: RunFolder, config: TrainConfig) -> AbstractContextManager[Exporter | None]:
    """An exporter that serves; None where `logging.prometheus_port` is null. Raises as `Exporter.serve` does."""
    return nullcontext() if config.logging.prometheus_port is None else Exporter(folder, config).serve()


def live_metrics(live: LiveStatus) -> dict[str, float]:
    """The state of a run by the names of LIVE_METRICS."""
    standing = live.standing
    values: dict[str, float] = {
        "run/step": standing.step,
        "run/evaluating": float(standing.is_evaluating),
        "groups/in_flight": standing.groups_in_flight,
        "groups/finished": standing.groups_finished,
    }
    if standing.saved_step is not None:
        values["checkpoint/step"] = standing.saved_step
    states = dict.fromkeys(WORKER_STATES, 0) | Counter(worker.state for worker in live.workers)
    values |= {f"workers/{state}": workers for state, workers in states.items()}
    for worker in live.workers:
        values |= {
            f"worker/{worker.name}/policy_version": worker.version,
            f"worker/{worker.name}/groups_in_flight": worker.groups_in_flight,
            f"worker/{worker.name}/restarts": worker.restarts,
        }
        if worker.engine is not None:
            values |= {f"engine/{worker.name}/{name}": value for name, value in asdict(worker.engine).items()}
    return values


def _earlier_values(folder: RunFolder) -> dict[str, float | None]:
    """What the run has exported so far; from metrics.jsonl where it was not exported."""
    try:
        return _VALUES_DECODER.validate_json(folder.exported_path.read_bytes())
    except (OSError, ValidationError):
        values: dict[str, float | None] = {}
        for row in folder.read_metrics():
            values = _after(values, {name: value for name, value in row.items() if name != "step"})
        return values


def _after(values: Mapping[str, float | None], metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """`values` after a row of metrics: counters add up, gauges are replaced."""
    added = {
        name: (values.get(name) or 0.0) + (value or 0.0) if labelled(name)[0].type == "counter" else value
        for name, value in metrics.items()
    }
    return {**values, **added}
