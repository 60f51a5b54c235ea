"""A real run that publishes adapters alone loses processes, and keeps learning."""

from __future__ import annotations

import pytest
from doubles.live_run import Launcher
from live_faults import QUICK, events, finish_whole, processes, until

ADAPTERS = ("learner.lora.rank=8", "learner.lora.alpha=16", "rollout.lora=adapter", "learner.lr=1e-3")


@pytest.mark.parametrize("transport", ["object_store", "collective"])
def test_a_run_that_publishes_adapters_survives_a_killed_worker_and_a_killed_rank(
    launcher: Launcher, transport: str
) -> None:
    layout = ("rollout.workers=2", "learner.ranks=2", f"sync.transport={transport}")
    run = launcher.start(
        f"adapters-{transport}", "run.max_steps=10000", "checkpoint.every=3", *ADAPTERS, *layout, *QUICK
    )
    run.wait_for_step(1)
    processes(run, "ray::RolloutActor")[0].kill()
    until(run, lambda: bool(events(run, "worker_recovered")), "the worker's replacement")
    processes(run, "ray::Learner")[1].kill()
    until(run, lambda: bool(events(run, "learner_recovered")), "the learner group's return")
    finish_whole(run)
    assert "Traceback" not in run.output
