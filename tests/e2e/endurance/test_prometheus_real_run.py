"""A real Prometheus reads a real run, and its resume: every number is that of metrics.jsonl."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from doubles.live_run import Launcher, LiveRun
from live_faults import processes
from real_prometheus import RUN, Prometheus, Series, dashboard_queries, free_port, wanted, watching


def test_prometheus_reads_every_number_of_a_real_run_and_its_counters_go_on_over_a_resume(
    launcher: Launcher, tmp_path: Path
) -> None:
    settings = ("run.max_steps=10000", "checkpoint.every=2", f"logging.prometheus_port={free_port()}")
    with watching(launcher.runs, tmp_path / "prometheus") as prometheus:
        run = launcher.start(RUN, *settings)
        first = compare_after(3, run, prometheus)
        stop(run)
        again = launcher.start(RUN, *settings, "checkpoint.resume=auto")
        second = compare_after(again.metrics[-1]["step"] + 2, again, prometheus)
        stop(again)
        assert prometheus.resets() == {0.0}
    tokens = ("maspo_rollout_tokens_total", ())
    assert second[tokens] > first[tokens] > 0


def compare_after(step: int, run: LiveRun, prometheus: Prometheus) -> dict[Series, float]:
    """Waits for a step, holds the run still, and compares; returns the values that Prometheus has."""
    run.wait_for_step(step)
    with held(run):
        # What needs no learner goes on for a moment: an evaluation, and groups of the next step.
        deadline_s = time.monotonic() + 60
        while (lacks := lacking(run, prometheus.of_run())) and time.monotonic() < deadline_s:
            time.sleep(1)
        assert not lacks
        found = prometheus.of_run()
        print(f"step {run.metrics[-1]['step']}: {len(wanted(run.folder))} numbers of the run are those of Prometheus")
        empty = [query for query in dashboard_queries() if not prometheus.ask("query", query=query)["result"]]
        print(f"queries of the dashboard without a value: {empty}")
    return found


def lacking(run: LiveRun, found: Mapping[Series, float]) -> dict[Series, tuple[float, float | None]]:
    """What metrics.jsonl and events.jsonl say, and what Prometheus has, where they differ in any digit."""
    return {
        series: (value, found.get(series))
        for series, value in wanted(run.folder).items()
        if found.get(series) != value and not (math.isnan(value) and math.isnan(found.get(series, 0.0)))
    }


@contextmanager
def held(run: LiveRun) -> Iterator[None]:
    """Stops the learner, so that the loop takes no further step; the controller still answers Prometheus."""
    [learner] = processes(run, "ray::Learner")
    learner.suspend()
    try:
        yield
    finally:
        learner.resume()


def stop(run: LiveRun) -> None:
    run.signal(signal.SIGTERM)
    assert run.finish() == 128 + signal.SIGTERM, run.output
