"""The bench of memory by process: its lines, and how it looks at a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from actors.bench import run_memory
from actors.bench.run_memory import Look, _looks, memory_lines
from maspo_dist.errors import MaspoError

_WORKER = "import time; print('up', flush=True); time.sleep(60)"
_RUN = f"""
import json, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", {_WORKER!r}, "ray::RolloutActor"], stdout=subprocess.PIPE)
worker.stdout.readline()
with open(sys.argv[1], "w", buffering=1) as rows:
    for step in range(1, int(sys.argv[2])):
        rows.write(json.dumps({{"step": step}}) + "\\n")
        time.sleep(0.2)
"""


def test_the_second_half_of_the_run_is_compared_with_its_end() -> None:
    looks = [Look(step=step, memory={"GCS 0": 40_000_000 + 100_000 * min(step, 50)}) for step in range(0, 101, 10)]
    [line] = memory_lines(looks)
    assert (line.value, line.unit, line.against, line.ratio) == (45.0, "MB", 45.0, 1.0)
    assert line.case == "GCS 0, MB by step: 41 at 10, 43 at 30, 45 at 50, 45 at 70, 45 at 100"


@pytest.mark.parametrize("steps", [5, 1000], ids=["a run that ends by itself", "a run that is stopped"])
def test_every_process_of_a_run_is_measured(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_memory, "_PAUSE_S", 0.2)
    (tmp_path / "run.py").write_text(_RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "metrics.jsonl"), str(steps)]
    looks = list(_looks(command, tmp_path, steps=1000, longest_s=3))
    looks = [look for look in looks if look.step]
    assert looks
    assert {name for look in looks for name in look.memory} == {"controller 0", "rollout worker 0"}
    assert min(size for look in looks for size in look.memory.values()) > 1_000_000


def test_a_run_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaspoError, match="ended with exit code 3"):
        list(_looks([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, steps=10, longest_s=60))
