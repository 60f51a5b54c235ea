"""Real processes of a real run are killed and frozen; the run goes on, loses no step and accounts for every prompt."""

from __future__ import annotations

from doubles.live_run import Launcher
from live_faults import QUICK, events, finish_whole, processes, until

from maspo_dist.runs.checkpoint import CheckpointStore, read_state


def test_a_killed_worker_a_frozen_engine_and_a_killed_learner_cost_no_step(launcher: Launcher) -> None:
    run = launcher.start(
        "faults", "run.max_steps=10000", "rollout.workers=2", "learner.ranks=2", "checkpoint.every=3", *QUICK
    )
    run.wait_for_step(1)
    frozen, _ = processes(run, "VLLM::EngineCore")
    frozen.suspend()
    # The other worker: at once, so that none is left to serve and both replacements start side by side.
    [killed] = [worker for worker in processes(run, "ray::RolloutActor") if worker.pid != frozen.ppid()]
    killed.kill()
    until(run, lambda: len(events(run, "worker_recovered")) == 2, "both workers' replacements")
    assert any("ping: no answer within 10 s" in message for message in events(run, "worker_lost"))
    processes(run, "ray::Learner")[1].kill()
    until(run, lambda: bool(events(run, "learner_recovered")), "the learner group's return")
    assert "learner rank" in events(run, "learner_lost")[0]
    last = finish_whole(run)
    newest, _ = CheckpointStore(run.folder.checkpoints_path).newest()
    assert newest is not None
    assert read_state(newest).step == last
