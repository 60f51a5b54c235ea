"""Engines and learners that take turns on the same devices lose processes, in a real run."""

from __future__ import annotations

from doubles.live_run import Launcher
from live_faults import QUICK, lose_a_worker_and_a_rank


def test_a_run_whose_processes_take_turns_survives_a_killed_worker_and_a_killed_rank(launcher: Launcher) -> None:
    layout = ("rollout.workers=2", "learner.ranks=2", "cluster.layout=colocated", "sync.transport=ipc")
    run = launcher.start("turns", "run.max_steps=10000", "checkpoint.every=3", *layout, *QUICK)
    lose_a_worker_and_a_rank(run)
