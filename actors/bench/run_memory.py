"""Memory of each process of a long run: what still grows late in the run.

A run trains the demo on the CPU by `configs/local_smoke.yaml` with small steps. Memory is what a process shares with
no other.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from actors.bench.lines import BenchLine, compare
from maspo_dist.demo.files import make_demo
from maspo_dist.errors import MaspoError
from maspo_dist.runs.folder import RunFolder

_CONFIG = Path("configs/local_smoke.yaml")
_STEPS = 2000
_SMALL_STEPS = ("rollout.prompts_per_step=8", "evaluation.every=null", "checkpoint.every=200", "data.eval={}")
_RUN_S, _END_S = 3600.0, 120.0
_PAUSE_S = 5.0
#: How a process is known, and what it is called.
_KINDS = {
    "ray::RolloutActor": "rollout worker",
    "VLLM::EngineCore": "engine",
    "ray::Learner": "learner",
    "ray::VerifierActor": "verifier",
    "gcs_server": "GCS",
    "raylet/raylet": "raylet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Bytes of each process after a step."""

    step: int
    memory: Mapping[str, int]


def run() -> Iterator[BenchLine]:
    """A line per process: its memory after half of the steps against that after all. Takes up to an hour."""
    demo = make_demo()
    with TemporaryDirectory(prefix="maspo-bench-") as folder:
        own = [f"run.dir={folder}", "run.name=long", f"run.max_steps={_STEPS}"]
        data = [f"model.path={demo.model}", f"data.train=[{demo.train}]"]
        command = [sys.executable, "-m", "actors.cli", "train", str(_CONFIG), *own, *data, *_SMALL_STEPS]
        yield from memory_lines(list(_looks(command, Path(folder) / "long", _STEPS, _RUN_S)))


def memory_lines(looks: Sequence[Look]) -> Iterator[BenchLine]:
    """A ratio of 1 says that the process did not grow in the second half of the run."""
    looks = [look for look in looks if look.step > 0]
    last = looks[-1]
    half = min(looks, key=lambda look: abs(look.step - last.step / 2))
    for name, end in last.memory.items():
        tenths = (min(looks, key=lambda look: abs(look.step - last.step * tenth / 10)) for tenth in (1, 3, 5, 7, 10))
        course = ", ".join(f"{look.memory.get(name, 0) / 1e6:,.0f} at {look.step}" for look in tenths)
        yield compare("run-memory", f"{name}, MB by step: {course}", half.memory.get(name, 0) / 1e6, "MB", end / 1e6)


def _looks(command: Sequence[str], path: Path, steps: int, longest_s: float) -> Iterator[Look]:
    """Looks at the run of `command` every few seconds, to its end or for `longest_s`, after which it is stopped.

    Raises MaspoError when the run fails.
    """
    until_s = time.monotonic() + longest_s
    process = psutil.Popen([*command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and time.monotonic() < until_s:
            time.sleep(_PAUSE_S)
            step = RunFolder(path).last_step or 0
            # After its last step a run ends its processes.
            if step < steps:
                with contextlib.suppress(psutil.NoSuchProcess):
                    yield Look(step=step, memory=_memory(process))
        if process.poll():
            raise MaspoError(f"the run whose memory is measured ended with exit code {process.returncode}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(_END_S)


def _memory(run: psutil.Process) -> dict[str, int]:
    """Of the run's processes, each kind numbered by age."""
    memory: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for process in sorted([run, *run.children(recursive=True)], key=lambda process: process.create_time()):
        try:
            title, size = " ".join(process.cmdline()), process.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
        kind = "controller" if process.pid == run.pid else next((_KINDS[k] for k in _KINDS if k in title), None)
        if kind is None:
            memory["others"] = memory.get("others", 0) + size
        else:
            numbers[kind] = numbers.get(kind, -1) + 1
            memory[f"{kind} {numbers[kind]}"] = size
    return memory
