"""`maspo-dist bench gpu` runs every check with real engines, so that the checks themselves are known to work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from actors.bench.gpu.checks import CHECKS

ROOT = Path(__file__).parents[2]


def test_every_check_passes_on_the_cpu_with_tiny_models() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "actors.cli", "bench", "gpu", "--device", "cpu", "--tiny"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )
    lines = list(map(json.loads, done.stdout.splitlines()))
    assert [line["check"] for line in lines] == [*CHECKS, "all"], done.stderr
    assert [line for line in lines if not line["ok"]] == [], done.stderr
    assert done.returncode == 0
    assert lines[-1]["left_out"] == []
    by_name = {line["check"]: line for line in lines}
    assert by_name["publish"]["parameters_seen"] > 0
    assert by_name["publish"]["responses_over_versions"] > 0
    assert by_name["zero"]["resumed_differences"] == 0
