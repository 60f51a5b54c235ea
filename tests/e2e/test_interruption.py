"""A run that is told to end: what it has done so far stays, nothing else does, and the exit code says who asked."""

from __future__ import annotations

import signal

from doubles.live_run import Launcher, LiveRun, comparable


def test_equal_seeds_give_equal_metrics_and_a_terminated_run_leaves_nothing(
    launcher: Launcher, whole_run: LiveRun
) -> None:
    again = launcher.start("again", "run.max_steps=1000")
    again.wait_for_step(2)
    again.signal(signal.SIGTERM)

    assert again.finish(deadline_s=60) == 128 + signal.SIGTERM
    assert comparable(again.metrics[:3]) == comparable(whole_run.metrics)
    assert "Traceback" not in again.output
