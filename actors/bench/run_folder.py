"""`status` and `report` of a long run: seconds and peak memory, on a folder of 20,000 steps and 1.3 million groups.

The yardstick of time is `json` decoding metrics.jsonl row by row; that of memory is 16 bytes for each of its numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np

from actors.bench.lines import BenchLine, compare
from maspo_dist.runs.catalogue import METRICS
from maspo_dist.runs.rows import SampleRow

STEPS = 20_000
GROUPS_PER_STEP = 65

_EVALUATED = 100
_EVENT = 50
_VALUES = {
    "<set>": ("aime24", "math500"),
    "<k>": ("32",),
    "<part>": ("format",),
    "<end>": ("max", "min"),
    "<sign>": ("pos", "neg"),
    "<bucket>": ("1e-4", "1e-2", "0.1", "0.5", "0.9", "1"),
    "<status>": ("correct", "wrong", "unparsed", "timeout", "error"),
}
_ENDINGS = (("trained", ""), ("trained", ""), ("trained", ""), ("dropped", "zero_variance"), ("dropped", "straggler"))
_CONFIG = "run:\n  name: long\n  max_steps: {steps}\nalgorithm:\n  loss:\n    kind: maspo\n"
_SAMPLE = SampleRow(
    step=0,
    group_id=0,
    prompt_id="problem-0",
    source="math",
    prompt="2 + 3 =",
    response="5",
    reference="5",
    reward=1.0,
    status="correct",
    extracted="5",
    seconds=0.01,
    reason="",
    finish_reason="stop",
)


def run() -> Iterator[BenchLine]:
    """Writes the folder, about 0.4 GB, into the temporary folder, and removes it."""
    with tempfile.TemporaryDirectory(prefix="maspo-bench-") as temporary:
        folder = Path(temporary) / "long"
        numbers = write_long_run(folder, STEPS, GROUPS_PER_STEP)
        started_s = time.perf_counter()
        with (folder / "metrics.jsonl").open("rb") as file:
            for line in file:
                json.loads(line)
        plain_s = time.perf_counter() - started_s
        for command in ("status", "report"):
            seconds, peak_bytes = _measured(command, folder)
            of = f"{command}, {STEPS:,} steps"
            yield compare("run-folder", f"{of}, {seconds:.2f} s", 1 / seconds, "times/s", 1 / plain_s)
            held = f"{of}, {peak_bytes / 1e6:,.0f} MB"
            yield compare("run-folder", held, numbers * 1e3 / peak_bytes, "numbers/kB", 1e3 / 16)


def write_long_run(path: Path, steps: int, groups_per_step: int) -> int:
    """Writes a run folder of `steps` steps with every metric of the catalogue; returns how many numbers it holds."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(_CONFIG.format(steps=steps))
    names = [name for metric in METRICS for name in _names(metric.name)]
    scores = [name for name in names if name.startswith("eval/")]
    trained = [f', "{name}": ' for name in names if not name.startswith("eval/")]
    rng = np.random.default_rng(0)
    numbers = 0
    with (path / "metrics.jsonl").open("w") as metrics, (path / "ledger.jsonl").open("w") as ledger:
        for step in range(steps + 1):
            if step > 0:
                values = map(repr, rng.random(len(trained)).tolist())
                metrics.write(f'{{"step": {step}{"".join(map("".join, zip(trained, values, strict=True)))}}}\n')
                numbers += len(trained)
                ledger.writelines(_ledger_lines(step, groups_per_step))
            if step % _EVALUATED == 0:
                row = dict(zip(scores, rng.random(len(scores)).tolist(), strict=True))
                metrics.write(json.dumps({"step": step, **row}) + "\n")
                numbers += len(scores)
    events = ({"time": 1.7e9 + step, "kind": "scale", "message": f"step {step}"} for step in range(0, steps, _EVENT))
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    rows = ({**asdict(_SAMPLE), "step": step, "group_id": step} for step in range(1, steps + 1))
    (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return numbers


def _names(name: str) -> Iterator[str]:
    """The names that stand behind a name of the catalogue."""
    placeholders = [placeholder for placeholder in _VALUES if placeholder in name]
    for values in product(*(_VALUES[placeholder] for placeholder in placeholders)):
        filled = name
        for placeholder, value in zip(placeholders, values, strict=True):
            filled = filled.replace(placeholder, value)
        yield filled


def _ledger_lines(step: int, groups: int) -> Iterator[str]:
    for group in range(step * groups, (step + 1) * groups):
        outcome, reason = _ENDINGS[group % len(_ENDINGS)]
        yield (
            f'{{"group_id": {group}, "prompt_id": "problem-{group % 7919}", "step": {step}, '
            f'"outcome": "{outcome}", "reason": "{reason}"}}\n'
        )


def _measured(command: str, folder: Path) -> tuple[float, int]:
    """Seconds and peak memory of `maspo-dist COMMAND FOLDER`, from its start to its end."""
    started_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "actors.cli", command, str(folder)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"maspo-dist {command} ended with exit code {process.returncode}")
    return seconds, usage.ru_maxrss * 1024
