"""What a fault test asks of a live run: its processes, its events, its workers, and that it is whole at the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil
from doubles.live_run import LiveRun, command

from maspo_dist.runs.live import LiveStatus, read_live

#: A fault is noticed within seconds, so that the test is over in minutes.
QUICK = ("cluster.heartbeat_s=1", "cluster.heartbeat_timeout_s=10", "cluster.restart_backoff_s=0")


def processes(run: LiveRun, title: str) -> list[psutil.Process]:
    """The run's processes whose title holds `title`, oldest first."""
    found = []
    for process in run.processes:
        try:
            if title in " ".join(process.cmdline()) or title.startswith(process.name()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.create_time())


def events(run: LiveRun, kind: str) -> list[str]:
    return [row["message"] for row in run.folder.read_events() if row["kind"] == kind]


def until(run: LiveRun, condition: Callable[[], bool], what: str, deadline_s: float = 180.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:g} s\n{run.output}"
        assert run.processes, f"{what}: the run ended first\n{run.output}"
        time.sleep(0.2)


def live(run: LiveRun) -> LiveStatus:
    status = read_live(run.folder.live_path)
    assert status is not None
    return status


def serving(run: LiveRun) -> int:
    return sum(worker.state == "serving" for worker in live(run).workers)


def scale(run: LiveRun, workers: int) -> str:
    """As a person does in another shell; returns what is printed."""
    return command("scale", str(run.folder.path), "--rollout-workers", str(workers))


def finish_whole(run: LiveRun) -> int:
    """Two steps later the run is terminated: it saves, and every step and every admitted group is there once. Returns
    the last step.
    """
    run.wait_for_step(run.metrics[-1]["step"] + 2)
    run.signal(signal.SIGTERM)
    assert run.finish(120) == 128 + signal.SIGTERM
    ledger = list(run.folder.read_ledger())
    last = max(row["step"] for row in ledger if row["outcome"] != "pending")
    steps = [row["step"] for row in run.metrics]
    assert steps == list(range(last + 1))
    outcomes = {row["group_id"]: row["outcome"] for row in ledger}
    assert len(outcomes) == len(ledger)
    assert sorted(outcomes) == list(range(len(outcomes)))
    consumed = [group for group, outcome in outcomes.items() if outcome != "pending"]
    assert sorted(consumed) == list(range(16 * last))
    assert max(row.get("sync/max_logprob_gap", 0) for row in run.metrics) < 1e-4
    return last


def lose_a_worker_and_a_rank(run: LiveRun) -> None:
    """Kills a rollout worker, then a learner rank; the run recovers from both and is whole at its end."""
    run.wait_for_step(1)
    processes(run, "ray::RolloutActor")[0].kill()
    until(run, lambda: bool(events(run, "worker_recovered")), "the worker's replacement")
    processes(run, "ray::Learner")[1].kill()
    until(run, lambda: bool(events(run, "learner_recovered")), "the learner group's return")
    finish_whole(run)
    assert "Traceback" not in run.output
