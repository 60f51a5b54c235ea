"""The built wheel alone, in a fresh environment and an empty folder, makes the demo, trains it and reports."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.live_run import LiveRun, launch, subreaper
from doubles.wheel import build_wheel, fresh_environment

#: Steps of a few seconds.
_SMALL = (
    "run.max_steps=3",
    "rollout.workers=1",
    "rollout.prompts_per_step=16",
    "learner.ranks=1",
    "evaluation.every=3",
)


class Installed:
    """The programs of an environment that holds the wheel, called in a folder that is empty at first."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
        self._environment = {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def call(self, program: str, *arguments: str) -> str:
        """The output of a command that must end well."""
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def train(self, *arguments: str) -> LiveRun:
        """`maspo-dist train ARGUMENTS` of a run named demo, to its end, which must be a good one."""
        command = [self._programs / "maspo-dist", "train", *arguments]
        output = self.folder / "output"
        run = launch(command, self.folder / "runs/demo", output, cwd=self.folder, environment=self._environment)
        try:
            assert run.finish() == 0, run.output
        finally:
            run.kill()
        return run


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    folder = tmp_path / "empty"
    folder.mkdir()
    with subreaper():
        yield Installed(fresh_environment(tmp_path / "environment", build_wheel(tmp_path / "wheel")), folder)


def test_the_wheel_alone_makes_the_demo_trains_it_and_reports(installed: Installed, tmp_path: Path) -> None:
    places = "import actors, maspo_dist; print(actors.__file__, maspo_dist.__file__)"
    assert installed.call("python", "-c", places).count(str(tmp_path / "environment")) == 2

    installed.call("maspo-dist", "demo", "made")
    run = installed.train("made/seed-0/config.yaml", *_SMALL)
    assert [row["step"] for row in run.metrics] == [0, 1, 2, 3]
    assert {"eval/addition/avg@1"} <= run.metrics[0].keys() & run.metrics[3].keys()

    installed.call("maspo-dist", "report", "runs/demo")
    assert "<svg" in (installed.folder / "runs/demo/report.html").read_text()
    assert "step 3" in installed.call("maspo-dist", "status", "runs/demo")
