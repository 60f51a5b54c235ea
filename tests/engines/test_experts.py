"""vLLM's packed experts follow an update."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from doubles.live_run import ROOT
from doubles.model_kinds import save_experts

from actors.engines.settings import engine_environment


def test_experts_are_packed_again_at_every_update(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("experts_reload.py")), str(save_experts(tmp_path / "experts"))],
        cwd=ROOT,
        env={**os.environ, **engine_environment("cpu", threads=1), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    distances = json.loads(done.stdout.splitlines()[-1])
    assert len(distances) == 3
    # Experts that were loaded but not packed are 4 away.
    assert max(distances) < 1e-5
