"""Runs of a comparison as child processes, each in a session of its own.

start ──► exit code
  │ cancelled, or this process ends: SIGTERM, so that it ends its own processes and saves its state
  └──────► past `_GRACE_S`: SIGKILL to all its session
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from maspo_dist.compare.plan import PlannedRun

_PR_SET_PDEATHSIG = 1
_GRACE_S = 60.0

#: Loaded before any fork: between fork and exec there is no safe time to.
_LIBC = ctypes.CDLL(None, use_errno=True)


def train_command(run: PlannedRun, launcher: Sequence[str]) -> list[str]:
    """The run's command line, behind `launcher`, which must become the command (nice -n 10, flock -F FILE) or pass
    signals on to it (srun).
    """
    return [*launcher, sys.executable, "-m", "actors.cli", "train", str(run.base), *run.overrides]


async def run_command(command: Sequence[str], log: Path) -> int:
    """Runs `command` to its end, what it prints going to `log`; returns its exit code, −n for signal n.

    However this ends, the process and all of its session have ended too.
    """
    parent = os.getpid()

    def end_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            # It died before the request to the kernel.
            os._exit(1)

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # Ctrl-C in the terminal reaches this process alone, which then ends its children in order.
            start_new_session=True,
            preexec_fn=end_with_parent,
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
    """Runs all, at most `jobs` at once, in order. `on_ended` may raise, which ends those that are on."""
    waiting = iter(runs)

    async def work() -> None:
        for run in waiting:
            on_ended(run, await run_command(start(run), log_of(run)))

    tasks = [asyncio.ensure_future(work()) for _ in range(min(jobs, len(runs)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            # A second cancellation would cut short what the first one set off.
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def last_line(log: Path) -> str:
    """What a process said last; empty if nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
    # The leader's session outlives it where it left children behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
