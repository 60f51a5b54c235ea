"""`maspo-dist bench gpu` on the CPU with tiny models, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


def tiny_lines(*checks: str) -> dict[str, dict[str, Any]]:
    """The lines of `checks` and their sum by name, in the order in which they were printed; all of them are good."""
    command = [sys.executable, "-m", "actors.cli", "bench", "gpu", "--device", "cpu", "--tiny"]
    command += [f"--only={check}" for check in checks]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=580)
    lines = list(map(json.loads, done.stdout.splitlines()))
    assert [line for line in lines if not line["ok"]] == [], done.stderr
    assert done.returncode == 0, done.stderr
    return {line["check"]: line for line in lines}
