"""A whole run with real Ray, vLLM and DeepSpeed: what it leaves, and what it does not."""

from __future__ import annotations

import json
import math
import re
from collections import Counter

import yaml
from doubles.live_run import LiveRun

from maspo_dist.runs.catalogue import find_metric
from maspo_dist.runs.live import read_live


def test_a_run_trains_publishes_evaluates_and_leaves_only_its_folder(whole_run: LiveRun) -> None:
    first, *steps = whole_run.metrics
    assert [row["step"] for row in (first, *steps)] == [0, 1, 2]
    assert "eval/addition/avg@1" in first
    for row in steps:
        assert all(value is None or math.isfinite(value) for value in row.values())
        assert row["sync/max_logprob_gap"] < 1e-4
        assert row["policy/age_max"] == 0
        assert "eval/addition/avg@1" in row
    names = {name for row in (first, *steps) for name in row if name != "step"}
    assert {name for name in names if find_metric(name) is None} == set(), "a name is not in the catalogue"
    assert steps[-1]["policy/version"] == 2
    assert steps[-1]["ratio/max"] > 1

    outcomes = Counter(row["outcome"] for row in whole_run.folder.read_ledger())
    assert outcomes["trained"] + outcomes["dropped"] == 2 * 16
    assert outcomes["trained"] > 0

    assert yaml.safe_load(whole_run.folder.config_path.read_text())["learner"]["lr"] == 1e-3
    assert whole_run.folder.report_path.stat().st_size > 0
    assert any(whole_run.folder.tensorboard_path.iterdir())
    assert {row["status"] for row in whole_run.folder.read_samples()} <= {"correct", "wrong", "unparsed"}
    assert [row["kind"] for row in whole_run.folder.read_events()] == ["run_finished"]
    assert "vllm" not in whole_run.output.lower()


def test_a_run_serves_its_numbers_and_those_of_its_engines(whole_run: LiveRun) -> None:
    url = re.search(r"^metrics: (http://127\.0\.0\.1:\d+/metrics)$", whole_run.output, re.MULTILINE)
    assert url
    live = read_live(whole_run.folder.live_path)
    assert live is not None
    assert live.metrics_url == url[1]
    for worker in live.workers:
        assert worker.engine is not None
        assert worker.engine.generated_tokens > 0
    exported = json.loads(whole_run.folder.exported_path.read_text())
    sampled = sum(row.get("rollout/tokens", 0) for row in whole_run.metrics)
    assert exported["rollout/tokens"] == sampled > 0
    assert exported["reward/mean"] == whole_run.metrics[-1]["reward/mean"]
    assert not whole_run.folder.discovery_path.exists()


def test_the_logs_of_engines_hold_nothing_that_every_publish_repeats(whole_run: LiveRun) -> None:
    logs = [path.read_text() for path in whole_run.folder.logs_path.glob("rollout-*.log")]
    assert logs
    for log in logs:
        assert "EngineCore" in log
        for known in ("setting pause state", "reset prefix cache", "RotaryEmbedding: Failed to load weights"):
            assert known not in log
