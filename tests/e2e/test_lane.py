"""Runs that share one start of Ray, engines and learner processes give the numbers of runs with their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from doubles.live_run import ROOT, LiveRun, comparable, subreaper

from actors.ray.on_node import free_port
from maspo_dist.compare.lane import Lane
from maspo_dist.runs.folder import RunFolder


async def test_a_run_in_processes_of_another_run_gives_the_numbers_of_a_run_in_fresh_processes(
    tiny_config: Path, whole_run: LiveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    lane = Lane([sys.executable, "-m", "actors.cli", "lane"])
    both = [f"run.dir={tmp_path}", f"cluster.learner_port={free_port()}"]
    other = ["run.name=other", "run.seed=7", "algorithm.loss={kind: clip}", "learner.lr=3e-3", "run.max_steps=3"]
    log, first, second = tmp_path / "out.log", RunFolder(tmp_path / "other"), RunFolder(tmp_path / "same")
    with subreaper():
        try:
            assert await lane.train(tiny_config, [*both, *other], log) == 0, log.read_text()
            logs_of_first = logs_in(first)
            assert await lane.train(tiny_config, [*both, "run.name=same"], log) == 0, log.read_text()
        finally:
            await lane.close()
        whole_run.assert_nothing_left()

    assert comparable(list(second.read_metrics())) == comparable(whole_run.metrics)
    assert first.address_path.read_text() == second.address_path.read_text()
    engine_starts = "Initializing a V1 LLM engine"
    assert engine_starts in logs_of_first["rollout-0.log"]
    assert engine_starts not in logs_in(second)["rollout-0.log"]
    assert logs_in(first) == logs_of_first


def logs_in(folder: RunFolder) -> dict[str, str]:
    """The text of each log file of a run."""
    return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in folder.logs_path.glob("*.log")}
