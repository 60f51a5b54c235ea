"""A real run goes from one rollout worker to three and back while one is killed."""

from __future__ import annotations

import time

from doubles.live_run import Launcher
from live_faults import QUICK, events, finish_whole, processes, scale, serving, until


def test_workers_come_and_go_while_one_is_killed(launcher: Launcher) -> None:
    run = launcher.start("elastic", "run.max_steps=10000", "algorithm.max_policy_age=1", *QUICK)
    run.wait_for_step(1)
    assert "3 of 3 workers serve" in scale(run, 3)
    killed_s = time.monotonic()
    processes(run, "ray::RolloutActor")[1].kill()
    until(run, lambda: bool(events(run, "worker_recovered")) and serving(run) == 3, "full strength after the kill")
    print(f"from the kill to full strength: {time.monotonic() - killed_s:.0f} s")
    assert "1 of 1 workers serve" in scale(run, 1)
    finish_whole(run)
    assert max(row["policy/age_max"] for row in run.metrics if row["step"]) <= 1
