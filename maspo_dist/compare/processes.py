"""Runs of a comparison as child processes, each in its own session.

start ──► exit code
  │ cancelled, or this process ends: SIGTERM, so that it ends its own processes and saves its state
  └──────► past `_GRACE_S`: SIGKILL to all its session
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from maspo_dist.compare.plan import PlannedRun
from maspo_dist.reward.pool.lifetime import end_with_parent

_GRACE_S = 60.0


def train_command(run: PlannedRun, launcher: Sequence[str]) -> list[str]:
    """The run's command line, behind `launcher`, which must become the command (nice -n 10, flock -F FILE) or pass
    signals on to it (srun).
    """
    return [*launcher, sys.executable, "-m", "actors.cli", "train", str(run.base), *run.overrides]


async def run_command(command: Sequence[str], log: Path) -> int:
    """Runs `command` to its end, what it prints going to `log`; returns its exit code, −n for signal n.

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


async def run_all(
    runs: Sequence[PlannedRun],
    jobs: int,
    start: Callable[[PlannedRun], list[str]],
    log_of: Callable[[PlannedRun], Path],
    on_ended: Callable[[PlannedRun, int], None],
) -> None:
    """Runs all, at most `jobs` at once, in order. If `on_ended` raises, the running processes are ended."""
    waiting = iter(runs)

    async def work() -> None:
        for run in waiting:
            on_ended(run, await run_command(start(run), log_of(run)))

    tasks = [asyncio.ensure_future(work()) for _ in range(min(jobs, len(runs)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            # A second cancellation would interrupt the clean-up of the first.
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def last_line(log: Path) -> str:
    """The last line that a process printed; empty if it printed nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
    # Children may outlive the leader of the session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
