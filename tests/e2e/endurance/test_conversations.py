"""A real run of conversations loses a worker with all its environments, and a learner rank."""

from __future__ import annotations

from pathlib import Path

from doubles.live_run import Launcher
from live_faults import QUICK, lose_a_worker_and_a_rank

CONVERSATIONS = (
    "environment.kind=python:doubles.own_environments:HigherLower",
    "environment.max_turns=3",
    # Room for three turns, and so small a rate that the model goes on to end its turns.
    "rollout.max_response_tokens=60",
    "learner.lr=1e-6",
)
TESTS = Path(__file__).parents[2]


def test_killed_processes_cost_no_step_of_a_run_of_conversations(launcher: Launcher) -> None:
    layout = ("rollout.workers=2", "learner.ranks=2", "run.max_steps=10000", "checkpoint.every=3")
    environment = {"PYTHONPATH": str(TESTS)}
    run = launcher.start("conversations", *layout, *CONVERSATIONS, *QUICK, environment=environment)
    lose_a_worker_and_a_rank(run)
    rows = [row for row in run.metrics if "conversation/turns_mean" in row]
    print("mean turns by step:", [round(row["conversation/turns_mean"], 2) for row in rows])
    assert min(row["conversation/turns_mean"] for row in rows) > 1
    assert max(row["conversation/turns_max"] for row in rows) == 3
