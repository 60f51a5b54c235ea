"""A run whose process is killed at any moment, a save included, goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from doubles.loop import FakeLearners, FakePool, make_config, make_controller

from maspo_dist.config import TrainConfig
from maspo_dist.runs.checkpoint import CheckpointStore, read_state
from maspo_dist.runs.folder import RunFolder
from maspo_dist.views.console import open_console

KILLS = 25
#: So many that the last kill still falls into the run, on a fast machine too.
STEPS = 240


class UnhurriedLearners(FakeLearners):
    """Each update, and each half of a save, takes a moment in which the process may be killed."""

    async def update(self, batch, bodies):  # type: ignore[no-untyped-def]
        await asyncio.sleep(0.004)
        return await super().update(batch, bodies)

    async def save(self, folder: Path) -> None:
        await super().save(folder)
        await asyncio.sleep(0.004)
        await asyncio.to_thread((folder / "weights").write_bytes, bytes(200_000))


def live(path: Path, config: TrainConfig) -> None:
    """One process of the run: resumes as `maspo-dist train` with checkpoint.resume=auto does."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for the life of the process)
    with RunFolder.resume(path) as folder, open_console("run", STEPS) as console:
        store = CheckpointStore(folder.checkpoints_path)
        resume, _ = store.newest()
        step = read_state(resume).step if resume else -1
        folder.rewind(step)
        store.rewind(step)
        controller = make_controller(config, folder, FakePool(), UnhurriedLearners(), console)
        asyncio.run(controller.run(resume))


def run_with_kills(path: Path, config: TrainConfig, kills: int, seed: int) -> Counter[str]:
    """Lives and dies `kills` times, then lives to the end; returns what the kills fell into."""
    rng = random.Random(seed)
    context = multiprocessing.get_context("fork")
    moments: Counter[str] = Counter()
    while kills > 0:
        process = context.Process(target=live, args=(path, config))
        process.start()
        time.sleep(rng.uniform(0.0, 0.2))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        if process.exitcode == -signal.SIGKILL:
            kills -= 1
            moments["save" if any((path / "checkpoints").glob(".part-*")) else "elsewhere"] += 1
        else:
            assert process.exitcode == 0
            # The run had ended before the kill. The remaining kills hit runs that resume from its last checkpoints.
            kills -= 1
            moments["after the end"] += 1
    process = context.Process(target=live, args=(path, config))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return moments


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(path: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not name.startswith("time/") and "per_s" not in name}
        for row in rows(path / "metrics.jsonl")
    ]


@pytest.mark.parametrize("age", [0, 1])
def test_a_run_that_is_killed_twenty_five_times_loses_no_number_and_no_prompt(tmp_path: Path, age: int) -> None:
    config = make_config(
        run={"max_steps": STEPS},
        algorithm={"max_policy_age": age},
        checkpoint={"every": 1},
        evaluation={"every": 40},
        logging={"tensorboard": False},
    )
    killed = tmp_path / "killed" / "run"
    moments = run_with_kills(killed, config, KILLS, age)

    ledger = rows(killed / "ledger.jsonl")
    assert sorted(row["group_id"] for row in ledger) == list(range(4 * STEPS))
    assert [row["prompt_id"] for row in sorted(ledger, key=lambda row: row["group_id"])] == [
        f"p{group}" for group in range(4 * STEPS)
    ]
    assert {row["outcome"] for row in ledger} == {"trained"}
    assert all(row.get("policy/age_max", 0) <= age for row in rows(killed / "metrics.jsonl"))
    if age == 0:
        whole = tmp_path / "whole" / "run"
        assert run_with_kills(whole, config, 0, 0) == Counter()
        assert numbers(killed) == numbers(whole)
        assert ledger == rows(whole / "ledger.jsonl")
    assert moments["save"] + moments["elsewhere"] >= 5, moments
