"""The demo with a calculator: a model learns to ask it where it is right, and to leave it where it is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maspo_dist.demo import CalculatorRecipe, DemoFiles, make_demo
from maspo_dist.runs.folder import RunFolder

ROOT = Path(__file__).parents[3]
LYING = 'environment.tools=["python:doubles.lying_calculator:calc"]'


@pytest.fixture(scope="module", params=[0, 1, 2])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return make_demo(tmp_path_factory.mktemp("demo"), request.param, CalculatorRecipe())


def train(demo: DemoFiles, folder: Path, *overrides: str) -> tuple[float, float]:
    """Trains as `make tools-smoke` does; held-out accuracy and calls per response at the end, 0 without a tool."""
    command = [sys.executable, "-m", "actors.cli", "train", "configs/tools_smoke.yaml", f"run.dir={folder}"]
    command += [f"model.path={demo.model}", f"data.train=[{demo.train}]", f"data.eval.addition={demo.heldout}"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run([*command, *overrides], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=True, timeout=900)
    rows = list(RunFolder(folder / "tools-smoke").read_metrics())
    accuracies = [row["eval/addition/avg@1"] for row in rows if "eval/addition/avg@1" in row]
    calls = [row["conversation/calls"] for row in rows if "conversation/calls" in row] or [0.0]
    print(f"held-out accuracy {accuracies}, calls per response {calls[0]:.3f} to {calls[-1]:.3f}")
    assert calls[0] < 0.1
    return accuracies[-1], calls[-1]


def test_a_model_learns_to_ask_a_calculator(demo: DemoFiles, tmp_path: Path) -> None:
    accuracy, calls = train(demo, tmp_path)
    assert accuracy >= 0.9
    assert calls > 0.9


def test_without_the_calculator_a_model_learns_less(demo: DemoFiles, tmp_path: Path) -> None:
    accuracy, _ = train(demo, tmp_path, "environment=null")
    assert accuracy < 0.7


def test_a_model_learns_to_leave_a_calculator_that_is_wrong(demo: DemoFiles, tmp_path: Path) -> None:
    _, calls = train(demo, tmp_path, LYING)
    assert calls < 0.05
