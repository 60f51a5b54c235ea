"""Real processes of a real run are killed and frozen. The run goes on, loses no step and accounts for every prompt.

Its loss and its verifier are those of a user, from a module outside the packages. Weights are broadcast.
"""

from __future__ import annotations

from pathlib import Path

from doubles.live_run import Launcher
from doubles.own_verifier import REASON
from live_faults import QUICK, events, finish_whole, processes, until

from maspo_dist.runs.checkpoint import CheckpointStore, read_state

OWN = (
    "algorithm.loss.kind=python:doubles.own_loss:CauchyLoss",
    "algorithm.loss.tau=0.01",
    "reward.default=python:doubles.own_verifier:BoxedVerifier",
    "logging.sample_groups=4",
)
TESTS = Path(__file__).parents[1]


def test_killed_and_frozen_processes_cost_no_step_of_a_run_with_its_own_loss_and_verifier(launcher: Launcher) -> None:
    layout = ("rollout.workers=2", "learner.ranks=2", "sync.transport=collective")
    # So small a rate that all these steps leave a policy which sometimes finds an answer: groups go on teaching.
    overrides = ("run.max_steps=10000", "checkpoint.every=3", "learner.lr=1e-4", *layout, *QUICK, *OWN)
    run = launcher.start("faults", *overrides, environment={"PYTHONPATH": str(TESTS)})
    run.wait_for_step(1)
    frozen, _ = processes(run, "VLLM::EngineCore")
    frozen.suspend()
    # The other worker too, at once: no worker serves, and both replacements start side by side.
    [killed] = [worker for worker in processes(run, "ray::RolloutActor") if worker.pid != frozen.ppid()]
    killed.kill()
    until(run, lambda: len(events(run, "worker_recovered")) == 2, "both workers' replacements")
    assert any("ping: no answer within 10 s" in message for message in events(run, "worker_lost"))
    processes(run, "ray::Learner")[1].kill()
    until(run, lambda: bool(events(run, "learner_recovered")), "the learner group's return")
    assert "learner rank" in events(run, "learner_lost")[0]
    last = finish_whole(run)
    assert "Traceback" not in run.output
    # Only a broadcast that was running when a process was lost may fail.
    assert len(events(run, "broadcast_failed")) <= 3
    newest, _ = CheckpointStore(run.folder.checkpoints_path).newest()
    assert newest is not None
    assert read_state(newest).step == last
    # The gate of the run's own loss. It is 1 in a step whose groups all fit into the first optimizer step.
    gates = [row["gate/mean"] for row in run.metrics[1:]]
    assert 0 < min(gates) < 1
    assert max(gates) <= 1
    # The diagnostics that every trust region gets.
    assert all(any(name.startswith("trust_region/") for name in row) for row in run.metrics[1:])
    samples = list(run.folder.read_samples())
    assert {sample["reason"] for sample in samples} == {REASON}
    assert {sample["reward"] for sample in samples} == {0.0, 1.0}
