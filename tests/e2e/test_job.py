"""The run as a job of a Ray cluster that was there before: submitted from a copy of the project, as the README says.

Its learner and its engine take turns, and the engine reads the learner's memory, which changes no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from doubles.live_run import LiveRun, comparable
from doubles.tiny_recipe import TINY_RUN
from job_cluster import run_on, submit

from maspo_dist.runs.folder import RunFolder

TURNS = ("cluster.layout=colocated", "sync.transport=ipc")


def test_a_job_whose_processes_take_turns_takes_the_demo_along_and_gives_the_metrics_of_a_local_run(
    clone: Path, cluster: Mapping[str, str], whole_run: LiveRun
) -> None:
    overrides = [f"{section}.{key}={value}" for section, values in TINY_RUN.items() for key, value in values.items()]
    # Submission copies only what is not ignored, the demo apart; hence a relative model path works.
    command = ["ray", "job", "submit", "--submission-id=smoke", "--working-dir", ".", "--"]
    command += ["maspo-dist", "train", "configs/local_smoke.yaml", *TURNS, *overrides]
    done = submit(command, clone, cluster)
    assert done.returncode == 0, done.stdout + done.stderr

    logs = run_on(["ray", "job", "logs", "smoke"], clone, cluster)
    for line in (
        "run local-smoke: 2 steps",
        "held-out before training: addition",
        " 2/2 ",
        "run_finished: 2 steps done",
    ):
        assert line in logs.stdout
    [unpacked] = Path(cluster["RAY_TMPDIR"]).glob("session_latest/runtime_resources/working_dir_files/*/")
    names = {path.name for path in unpacked.glob("**/*")}
    assert "model.safetensors" in names
    assert "large" not in names
    run = RunFolder(unpacked / "runs" / "local-smoke")
    assert comparable(list(run.read_metrics())) == comparable(whole_run.metrics)
    assert "ipc_failed" not in {event["kind"] for event in run.read_events()}
