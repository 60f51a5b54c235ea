"""A submitted job is scaled from another shell, and stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from job_cluster import run_on, submit

from maspo_dist.runs.folder import RunFolder


def test_a_job_is_scaled_from_another_shell_and_stopped(
    clone: Path, cluster: Mapping[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "scaled"
    overrides = ["run.name=scaled", f"run.dir={folder.parent}", "run.max_steps=10000", "rollout.workers=1"]
    overrides += ["learner.ranks=1", "rollout.prompts_per_step=8"]
    command = ["ray", "job", "submit", "--submission-id=scaled", "--no-wait", "--working-dir", ".", "--"]
    command += ["maspo-dist", "train", "configs/local_smoke.yaml", *overrides]
    assert submit(command, clone, cluster).returncode == 0
    _wait_until(lambda: any(row["step"] == 1 for row in _rows(folder / "metrics.jsonl")), "step 1")

    scaled = run_on(["maspo-dist", "scale", str(folder), "--rollout-workers", "2"], tmp_path, cluster)
    assert "2 of 2 workers serve" in scaled.stdout, scaled.stdout + scaled.stderr

    assert run_on(["ray", "job", "stop", "scaled"], tmp_path, cluster).returncode == 0
    _wait_until(lambda: any(row["kind"] == "run_stopped" for row in _rows(folder / "events.jsonl")), "the end")
    steps = [row["step"] for row in RunFolder(folder).read_metrics()]
    assert steps == list(range(len(steps)))


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 240.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:g} s"
        time.sleep(0.2)
