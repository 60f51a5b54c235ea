"""A real run whose whole process tree is killed, a save included, goes on; and what a run leaves can be used."""

from __future__ import annotations

import time
from itertools import takewhile
from pathlib import Path

from doubles.live_run import Launcher, LiveRun, command, comparable
from safetensors.torch import load_file

STEPS = 6
SAVING = ("checkpoint.every=1", "checkpoint.resume=auto")


def test_four_kills_cost_no_step_and_no_prompt(launcher: Launcher) -> None:
    whole = launcher.train("whole", f"run.max_steps={STEPS}", *SAVING)

    for kill in range(4):
        run = launcher.start("killed", f"run.max_steps={STEPS}", *SAVING)
        if kill % 2:
            wait_for_a_save_past(run, kill)
        else:
            run.wait_for_step(kill + 1)
        run.kill()
    run = launcher.train("killed", f"run.max_steps={STEPS}", *SAVING)

    assert [row["step"] for row in run.metrics] == list(range(STEPS + 1))
    outcomes = {row["group_id"]: row["outcome"] for row in run.folder.read_ledger()}
    assert sorted(outcomes) == list(range(16 * STEPS))
    assert len(outcomes) == sum(1 for _ in run.folder.read_ledger())
    assert set(outcomes.values()) <= {"trained", "dropped"}
    pairs = zip(comparable(run.metrics), comparable(whole.metrics), strict=True)
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    print(f"equal to the run without kills, number by number: {equal} of {STEPS + 1} rows")
    # At least up to the first kill; after it only a sample that vLLM rounds otherwise may differ.
    assert equal >= 2


def test_a_run_is_replayed_exported_and_continued_on_another_layout(launcher: Launcher, tmp_path: Path) -> None:
    run = launcher.train("chain", *SAVING, "logging.record_steps=all")
    path = str(run.folder.path)
    command("replay", path, "--step", "2")
    command("export", path, "--to", str(tmp_path / "model"))

    elsewhere = (*SAVING, "logging.record_steps=all", "run.max_steps=3", "learner.ranks=2", "learner.zero_stage=3")
    refused = launcher.start("chain", *elsewhere, "learner.lr=2e-3")
    assert refused.finish(120) == 2
    assert "learner.lr was 0.001, is 0.002" in refused.output
    again = launcher.train("chain", *elsewhere, "rollout.workers=2")
    assert [row["step"] for row in again.metrics] == [0, 1, 2, 3]

    model = f"model.path={tmp_path / 'model'}"
    untrained = launcher.train("untrained", model, "run.max_steps=0", "checkpoint.every=1")
    command("export", str(untrained.folder.path), "--to", str(tmp_path / "same"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "same"))
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def wait_for_a_save_past(run: LiveRun, step: int, deadline_s: float = 240.0) -> None:
    """Returns while a checkpoint is being written."""
    deadline = time.monotonic() + deadline_s
    while not (run.metrics and run.metrics[-1]["step"] > step and any(run.folder.checkpoints_path.glob(".part-*"))):
        assert run.processes, f"the run ended first:\n{run.output}"
        assert time.monotonic() < deadline, f"no save within {deadline_s:g} s:\n{run.output}"
        time.sleep(0.002)
