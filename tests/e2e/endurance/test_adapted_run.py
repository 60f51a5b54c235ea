"""Real runs that publish adapters alone: the demo learns, lost processes cost nothing, a split engine gets them too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from doubles.live_run import Launcher
from doubles.tiny_recipe import TINY
from doubles.vllm_forks import run_script
from live_faults import QUICK, lose_a_worker_and_a_rank

from maspo_dist.demo import make_demo
from maspo_dist.runs.folder import RunFolder

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "engines" / "adapter_engine.py"
ADAPTERS = ("learner.lora.rank=8", "learner.lora.alpha=16", "rollout.lora=adapter", "learner.lr=1e-3")


@pytest.mark.parametrize("transport", ["object_store", "collective"])
def test_a_run_that_publishes_adapters_survives_a_killed_worker_and_a_killed_rank(
    launcher: Launcher, transport: str
) -> None:
    layout = ("rollout.workers=2", "learner.ranks=2", f"sync.transport={transport}")
    run = launcher.start(
        f"adapters-{transport}", "run.max_steps=10000", "checkpoint.every=3", *ADAPTERS, *layout, *QUICK
    )
    lose_a_worker_and_a_rank(run)


def test_the_demo_learns_with_adapters_of_rank_8(tmp_path: Path) -> None:
    demo = make_demo(tmp_path / "demo", 0)
    command = [sys.executable, "-m", "actors.cli", "train", "configs/local_smoke.yaml", f"run.dir={tmp_path}"]
    data = [f"model.path={demo.model}", f"data.train=[{demo.train}]", f"data.eval.addition={demo.heldout}"]
    subprocess.run([*command, *data, *ADAPTERS], cwd=ROOT, check=True, timeout=900)
    rows = RunFolder(tmp_path / "local-smoke").read_metrics()
    before, *_, after = [row["eval/addition/avg@1"] for row in rows if "eval/addition/avg@1" in row]
    print(f"held-out accuracy {before:.3f} to {after:.3f}")
    assert after > before + 0.15


def test_adapters_reach_an_engine_that_is_split_over_two_processes(tmp_path: Path) -> None:
    demo = make_demo(tmp_path, 0, TINY)
    assert run_script(SCRIPT, demo.model, 2) == "reached its end"
