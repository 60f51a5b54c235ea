"""The demo's run with another loss, ZeRO stage, and number of ranks and workers: overrides alone, no code."""

from __future__ import annotations

import math
import signal

import pytest
from doubles.live_run import Launcher


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm.loss.kind=clip",),
        ("learner.zero_stage=0",),
        ("learner.zero_stage=1", "learner.ranks=2"),
        ("learner.zero_stage=0", "learner.ranks=2"),
        ("learner.zero_stage=3",),
        ("learner.zero_stage=3", "learner.ranks=2"),
        ("rollout.workers=3",),
        ("rollout.tensor_parallel=2",),
    ],
    ids=" ".join,
)
def test_the_same_command_trains_with_it(launcher: Launcher, overrides: tuple[str, ...]) -> None:
    run = launcher.train("other", *overrides)
    steps = [row for row in run.metrics if row["step"]]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        assert row["sync/max_logprob_gap"] < 1e-4
        assert all(value is None or math.isfinite(value) for value in row.values())
    assert steps[-1]["policy/version"] == 2


def test_an_interrupted_run_leaves_nothing_and_says_so(launcher: Launcher) -> None:
    run = launcher.start("interrupted", "run.max_steps=1000")
    run.wait_for_step(1)
    run.signal(signal.SIGINT)
    assert run.finish(60) == 128 + signal.SIGINT
    assert "Traceback" not in run.output
