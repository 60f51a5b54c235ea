"""A real run of conversations with an environment loses a worker, the processes of environments and a learner rank."""

from __future__ import annotations

from pathlib import Path

from doubles.live_run import Launcher
from live_faults import QUICK, events, finish_whole, processes, until

CONVERSATIONS = (
    "environment.kind=python:doubles.own_environments:HigherLower",
    "environment.max_turns=3",
    "environment.max_turn_tokens=6",
)
FORK_SERVER = "maspo_dist.environments.fork_server"
TESTS = Path(__file__).parents[2]


def test_killed_processes_cost_no_step_of_a_run_of_conversations(launcher: Launcher) -> None:
    layout = ("rollout.workers=2", "learner.ranks=2", "run.max_steps=10000", "checkpoint.every=3")
    environment = {"PYTHONPATH": str(TESTS)}
    run = launcher.start("conversations", *layout, *CONVERSATIONS, *QUICK, environment=environment)
    run.wait_for_step(1)
    processes(run, "ray::RolloutActor")[0].kill()
    until(run, lambda: bool(events(run, "worker_recovered")), "the worker's replacement")
    # Of each pair, the keeper is older: it ends the fork server, and the environments of the worker end with it.
    killed = processes(run, FORK_SERVER)[0]
    killed.kill()
    step = run.metrics[-1]["step"]
    run.wait_for_step(step + 2)
    assert killed.pid not in {process.pid for process in processes(run, FORK_SERVER)}
    processes(run, "ray::Learner")[1].kill()
    until(run, lambda: bool(events(run, "learner_recovered")), "the learner group's return")
    finish_whole(run)
    assert "Traceback" not in run.output
    assert all(row["conversation/turns_mean"] > 1 for row in run.metrics[1:])
    assert max(row["conversation/turns_max"] for row in run.metrics[1:]) == 3
