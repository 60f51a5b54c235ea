"""`maspo-dist train` as a person calls it: a process of its own, watched, ended, and looked after.

    start ──► LiveRun ──► wait_for_step, signal, … ──► finish ──► exit code; nothing of it may be left

What is left is found without guessing by name: while a run is watched, this process is the "subreaper"
of Linux, so that every descendant whose parent has died becomes its child. Ports and sockets end with
the processes that hold them; shared memory does not, so /dev/shm is looked at as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from maspo_dist.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")

_PR_SET_CHILD_SUBREAPER = 36
#: Of multiprocessing, and of `doubles.vllm_forks`.
_HELPERS = ("resource_tracker", "forkserver", "vllm_forks")
#: From the last process's order to end until the kernel has taken it down, on a busy machine.
_ENDING_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """Shared memory and descendants of this process that existed before the run started."""

    segments: frozenset[str]
    processes: frozenset[psutil.Process]


class LiveRun:
    """One `maspo-dist train` that has been started, with its folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], before: Before, output: Path) -> None:
        self.folder = RunFolder(folder)
        self.pid = process.pid
        self._process = process
        self._before = before
        self._output = output

    @property
    def output(self) -> str:
        """What the run has printed, standard error included."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl so far, step 0 (the first evaluation) included."""
        return list(self.folder.read_metrics())

    @property
    def processes(self) -> list[psutil.Process]:
        """The run's processes that live now, its own first."""
        try:
            run = psutil.Process(self.pid)
            return [run, *run.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait_for_step(self, step: int, deadline_s: float = 400.0) -> None:
        """Returns when metrics.jsonl holds `step`; fails when the run ends first or time is up."""
        deadline = time.monotonic() + deadline_s
        while not any(row["step"] >= step for row in self.metrics):
            assert self._process.poll() is None, f"the run ended before step {step}:\n{self.output}"
            assert time.monotonic() < deadline, f"no step {step} within {deadline_s:g} s:\n{self.output}"
            time.sleep(0.1)

    def signal(self, which: signal.Signals) -> None:
        """To the run's own process alone, as `kill` does."""
        self._process.send_signal(which)

    def finish(self, deadline_s: float = 400.0) -> int:
        """Waits for the end and returns the exit code; fails past the deadline, or if anything is left."""
        try:
            code = self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run did not end within {deadline_s:g} s:\n{self.output}") from None
        self.assert_nothing_left()
        return code

    def assert_nothing_left(self) -> None:
        """No process and no shared memory; a moment is allowed for what was told to end."""
        deadline = time.monotonic() + _ENDING_S
        while (processes := _adopted(self._before.processes)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not processes, f"processes left behind: {processes}"
        # Other tests that run beside this one may hold a segment for a moment before they map it.
        while (segments := orphaned_segments() - self._before.segments) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not segments, f"shared memory left behind: {sorted(segments)}"

    def kill(self) -> None:
        """Ends whatever lives; for clean-up, not for tests."""
        for process in {*self.processes, *descendants()} - self._before.processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()


def launch(
    command: Sequence[str | Path], folder: Path, output: Path, *, cwd: Path, environment: Mapping[str, str]
) -> LiveRun:
    """Starts a command that makes the run `folder`; what it prints goes to the file `output`."""
    before = Before(segments=frozenset(orphaned_segments()), processes=frozenset(descendants()))
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=cwd, env=dict(environment)
        )
    return LiveRun(folder, process, before, output)


class Launcher:
    """Starts runs of one configuration, each in a folder of its own."""

    def __init__(self, config: Path, runs: Path) -> None:
        self.config = config
        self.runs = runs
        self._started: list[LiveRun] = []

    def start(
        self,
        name: str,
        *overrides: str,
        environment: Mapping[str, str] | None = None,
        module: str = "actors.cli",
    ) -> LiveRun:
        """`maspo-dist train CONFIG run.name=NAME OVERRIDES…`; returns at once.

        `environment` is added to this process's; its PYTHONPATH is put before the project's. `module` is called in
        place of the command line.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        arguments = ["train", str(self.config), f"run.name={name}", f"run.dir={self.runs}", *overrides]
        extra = dict(environment or {})
        path = os.pathsep.join(filter(None, [extra.pop("PYTHONPATH", ""), str(ROOT), os.environ.get("PYTHONPATH")]))
        run = launch(
            [sys.executable, "-m", module, *arguments],
            self.runs / name,
            self.runs / f"{name}.out",
            cwd=ROOT,
            environment={**os.environ, **extra, "PYTHONPATH": path},
        )
        self._started.append(run)
        return run

    def train(
        self, name: str, *overrides: str, deadline_s: float = 400.0, environment: Mapping[str, str] | None = None
    ) -> LiveRun:
        """A run to its end, which must be a good one."""
        run = self.start(name, *overrides, environment=environment)
        code = run.finish(deadline_s)
        assert code == 0, f"exit code {code}:\n{run.output}"
        return run

    def close(self) -> None:
        """Ends the runs that a failed test left."""
        for run in self._started:
            run.kill()


def command(*arguments: str) -> str:
    """`maspo-dist ARGUMENTS` to its end, which must be a good one; returns what it prints."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "actors.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def subreaper() -> Iterator[None]:
    """Orphaned descendants become children of this process, not of the system's first."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def comparable(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics as lines of text, without what depends on the clock."""
    return [
        json.dumps({name: value for name, value in row.items() if not is_timing(name)}, sort_keys=True)
        for row in metrics
    ]


def is_timing(name: str) -> bool:
    """Whether a metric measures seconds, or anything per second."""
    return name.startswith("time/") or name.endswith("_s") or "_s/" in name


def descendants() -> list[psutil.Process]:
    """All that descends from this process, but for what pytest itself keeps."""
    return [process for process in psutil.Process().children(recursive=True) if not _is_of_pytest(process)]


def _adopted(others: Set[psutil.Process]) -> list[str]:
    """Living processes that descend from this one, but for `others` and pytest's own; the dead are reaped."""
    living = []
    for process in descendants():
        if process in others:
            continue
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                _reap(process.pid)
            else:
                living.append(f"{process.pid} {' '.join(process.cmdline())[:120] or process.name()}")
        except psutil.NoSuchProcess:
            continue
    return living


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # it is another's child


def _is_of_pytest(process: psutil.Process) -> bool:
    """Whether it is a helper that another test started: these live as long as pytest."""
    try:
        command = " ".join(process.cmdline())
        return process.ppid() == os.getpid() and any(helper in command for helper in _HELPERS)
    except psutil.NoSuchProcess:
        return False


def orphaned_segments() -> set[str]:
    """Files in /dev/shm that no living process has mapped or open: what a dead one left there."""
    inodes: dict[str, int] = {}
    for path in SHARED_MEMORY.iterdir():
        with suppress(FileNotFoundError):
            if path.is_file():
                inodes[str(path)] = path.stat().st_ino
    mapped: set[int] = set()
    opened: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            maps = (process / "maps").read_text(errors="replace").splitlines()
            # By inode, since a semaphore is mapped before it gets its name.
            mapped |= {int(line.split()[4]) for line in maps if str(SHARED_MEMORY) in line}
            opened |= {str(link.readlink()) for link in (process / "fd").iterdir()}
    return {name for name, inode in inodes.items() if inode not in mapped and name not in opened}
