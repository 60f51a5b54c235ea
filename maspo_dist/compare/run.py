"""`maspo-dist compare`: every run once, then one report. The same command again continues where it stopped.

runs/<name>/
    <variant>-seed<k>/   ordinary run folders
    logs/                the output of each run
    compare.html, compare.json

A run is a child process in its own session:

start ──► exit code
  │ cancelled, or this process ends: SIGTERM, so that the run saves its state and ends its own processes
  └──────► after `_GRACE_S`: SIGKILL to its whole session
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from maspo_dist.compare.outcome import Comparison, comparison_tables, comparison_tree, summarise
from maspo_dist.compare.page import render_comparison
from maspo_dist.compare.plan import Plan, PlannedRun, is_finished
from maspo_dist.errors import ConfigError, RunsFailedError
from maspo_dist.reward.pool.lifetime import end_with_parent
from maspo_dist.runs.folder import LockedFolder
from maspo_dist.runs.interrupt import Interruption, until_signal
from maspo_dist.runs.jsonl import replace_text
from maspo_dist.views.format import format_duration

#: Exit code of a run with a user error, which would stop the other runs too.
_USER_ERROR = 2
_GRACE_S = 60.0


def compare(plan: Plan, jobs: int, launcher: Sequence[str], console: Console) -> None:
    """Runs what has not finished, at most `jobs` at once, and writes the report after each.

    Raises ConfigError if a run cannot start or a folder holds something else, RunsFailedError at the end if runs
    failed. Exits 130 or 143 when interrupted, with every run ended.
    """
    with LockedFolder(plan.folder) as folder:
        folder.lock("another comparison: choose another --name", "set run.dir")
        runs = _Runs(plan, jobs, launcher, console)
        interrupted = asyncio.run(until_signal(runs.drive))
        if interrupted is not None:
            runs.say(f"interrupted after {len(runs.finished)} of {len(plan.runs)} runs; the same command goes on")
            raise SystemExit(128 + interrupted)
        for table in comparison_tables(runs.write()):
            console.print(table)
        runs.say(f"report  {runs.page_path}\nfigures {runs.tree_path}")
    if runs.failed:
        log = runs.log_path(runs.failed[0])
        raise RunsFailedError(f"{len(runs.failed)} of {len(plan.runs)} runs failed, see {log}: {last_line(log)}")


class _Runs:
    """The runs of one comparison, and the files that they lead to."""

    def __init__(self, plan: Plan, jobs: int, launcher: Sequence[str], console: Console) -> None:
        self.page_path = plan.folder / "compare.html"
        self.tree_path = plan.folder / "compare.json"
        self.finished = [run for run in plan.runs if is_finished(run)]
        self.failed: list[PlannedRun] = []
        self._plan = plan
        self._jobs = jobs
        self._launcher = launcher
        self._console = console

    async def drive(self, _: Interruption) -> None:
        """Runs what is not in `finished`."""
        self.say(f"{len(self._plan.runs)} runs in {self._plan.folder}, {len(self.finished)} finished")
        left = [run for run in self._plan.runs if run not in self.finished]
        await run_all(left, self._jobs, self._run)

    def log_path(self, run: PlannedRun) -> Path:
        return self._plan.folder / "logs" / f"{run.name}.log"

    def write(self) -> Comparison:
        """Writes page and figures of the finished runs."""
        comparison = summarise(self._plan, [run for run in self._plan.runs if run in self.finished])
        replace_text(self.tree_path, json.dumps(comparison_tree(comparison), indent=2, allow_nan=False) + "\n")
        replace_text(self.page_path, render_comparison(comparison))
        return comparison

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    async def _run(self, run: PlannedRun) -> None:
        self.say(f"{run.name}: started")
        started_s = time.monotonic()
        log = self.log_path(run)
        # The launcher must become the command (nice -n 10, flock -F FILE) or pass signals on to it (srun).
        command = [*self._launcher, sys.executable, "-m", "actors.cli", "train", str(run.base), *run.overrides]
        code = await run_command(command, log)
        took = format_duration(time.monotonic() - started_s)
        if code == _USER_ERROR:
            raise ConfigError(f"{run.name} cannot run: {last_line(log).removeprefix('error: ')}")
        if code == 0 and is_finished(run):
            self.finished.append(run)
            self.say(f"{run.name}: done in {took}, {len(self.finished)} of {len(self._plan.runs)}")
            self.write()
        else:
            self.failed.append(run)
            self.say(f"{run.name}: failed with exit code {code} after {took}, see {log}")


async def run_all(runs: Sequence[PlannedRun], jobs: int, run_one: Callable[[PlannedRun], Awaitable[None]]) -> None:
    """Awaits `run_one` of all runs in order, at most `jobs` at once. If one raises, the others are cancelled."""
    waiting = iter(runs)

    async def work() -> None:
        for run in waiting:
            await run_one(run)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(jobs, len(runs)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            # A second cancellation would interrupt the clean-up of the first.
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_command(command: Sequence[str], log: Path) -> int:
    """Runs `command` to its end and appends its output to `log`; returns its exit code, −n for signal n.

    When this returns or raises, the process and all of its session have ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # Ctrl-C in the terminal reaches this process alone, which then ends its children in order.
            start_new_session=True,
            preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
        )
    try:
        return await process.wait()
    finally:
        await asyncio.shield(_end(process))


def last_line(log: Path) -> str:
    """The last line that a process printed; empty if it printed nothing."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return text.rstrip().rpartition("\n")[2].strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
    # Children may outlive the leader of the session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
