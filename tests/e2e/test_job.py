"""The run as a job of a Ray cluster that was there before: submitted from a copy of the project, as the README says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from job_cluster import run_on


def test_a_job_takes_the_demo_along_and_can_be_followed(clone: Path, cluster: Mapping[str, str]) -> None:
    overrides = ["run.max_steps=1", "rollout.workers=1", "learner.ranks=1", "rollout.prompts_per_step=8"]
    # Submission copies only what is not ignored, the demo apart; hence a relative model path works.
    command = ["ray", "job", "submit", "--submission-id=smoke", "--working-dir", ".", "--"]
    command += ["maspo-dist", "train", "configs/local_smoke.yaml", *overrides]
    done = run_on(command, clone, cluster)
    assert done.returncode == 0, done.stdout + done.stderr

    logs = run_on(["ray", "job", "logs", "smoke"], clone, cluster)
    for line in (
        "run local-smoke: 1 steps",
        "held-out before training: addition",
        " 1/1 ",
        "run_finished: 1 steps done",
    ):
        assert line in logs.stdout
    unpacked = _unpacked(Path(cluster["RAY_TMPDIR"]))
    assert "model.safetensors" in unpacked
    assert "large" not in unpacked


def _unpacked(session: Path) -> set[str]:
    """Names of what the cluster unpacked of the job's folder."""
    return {path.name for path in session.glob("session_latest/runtime_resources/working_dir_files/*/**/*")}
