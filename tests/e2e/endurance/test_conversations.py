"""A real run of conversations loses the process that forks environments, a worker, and a learner rank."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
from doubles.live_run import Launcher, LiveRun
from live_faults import QUICK, events, lose_a_worker_and_a_rank, processes, until

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
    run.wait_for_step(0)
    until(run, lambda: lose_environments(run), "open conversations")
    until(run, lambda: bool(events(run, "environments_lost")), "the loss of open conversations")
    lose_a_worker_and_a_rank(run)
    assert not events(run, "environment_failed")
    rows = [row for row in run.metrics if "conversation/turns_mean" in row]
    print("mean turns by step:", [round(row["conversation/turns_mean"], 2) for row in rows])
    assert min(row["conversation/turns_mean"] for row in rows) > 1
    assert max(row["conversation/turns_max"] for row in rows) == 3
    assert sum(row["conversation/restarts"] for row in rows) > 0


def lose_environments(run: LiveRun) -> bool:
    """Kills the process that forks environments of one worker, if any conversation of it is open."""
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        # The oldest keeps the process that forks.
        server = processes(run, "maspo_dist.environments.fork_server")[0].children()[0]
        # Some of them are in the middle of a conversation.
        if len(server.children()) > 4:
            server.kill()
            return True
    return False
