"""A process that trains one run after another: `maspo-dist lane`, which shares one start of Ray and of the engines.

no process ──train──► training ──answer 0──► waits for the next run
    ▲                    │
    └── it ended, or the run failed, or the call was cancelled: SIGTERM, so that a run saves its state and ends its own
        processes; after `_GRACE_S`, SIGKILL to its whole session
"""

import asyncio
import contextlib
import json
import math
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maspo_dist.reward.pool.lifetime import end_with_parent

_GRACE_S = 60.0
_LOOK_S = 0.1


class Lane:
    """Trains one run at a time. Call `close` last."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` reads runs from standard input and answers as `actors.commands.lane` does."""
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def train(self, config: Path, overrides: Sequence[str], log: Path) -> int:
        """Runs `maspo-dist train config *overrides`, appends its output to `log`, and returns its exit code.

        The code is −n if signal n ended the process. If the run fails or this call is cancelled, the process and all of
        its session have ended when this returns or raises, and the next run gets another process.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        code: int | None = None
        try:
            code = await self._answer({"log": str(log), "config": str(config), "overrides": list(overrides)}, log)
        finally:
            if code != 0:
                ended = await asyncio.shield(self._end(is_done=code is not None))
        return ended if code is None else code

    async def close(self) -> None:
        """Ends the process, if there is one; it ends what the last run has left."""
        await asyncio.shield(self._end(is_done=True))

    async def _answer(self, order: dict[str, object], log: Path) -> int | None:
        """None if the process ends without an answer."""
        if self._process is None:
            with log.open("ab") as file:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # Until the first run has begun.
                    stderr=file,
                    # Ctrl-C in the terminal reaches this process alone, which then ends its children in order.
                    start_new_session=True,
                    preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
                )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
        reading = asyncio.ensure_future(_exit_code(process.stdout))
        try:
            await _done_or_ended(reading, process, math.inf)
            # What the process wrote before it ended may still be in the pipe.
            await asyncio.wait({reading}, timeout=_LOOK_S)
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()

    async def _end(self, *, is_done: bool) -> int:
        """Returns the exit code; `is_done` if no run is in progress, so that the process ends when its input does."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        process.stdin.close()
        if not is_done and process.returncode is None:
            # `process.terminate` would reap a process that has just ended, so that asyncio missed its exit code.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        waiting = asyncio.ensure_future(process.wait())
        try:
            await _done_or_ended(waiting, process, _GRACE_S)
            # Children may outlive the leader of the session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await _done_or_ended(waiting, process, _GRACE_S)
        finally:
            waiting.cancel()
        return -signal.SIGKILL if process.returncode is None else process.returncode


async def _exit_code(answers: asyncio.StreamReader) -> int | None:
    """The next answer; None at the end. Skips what a launcher prints."""
    async for line in answers:
        if line.strip().isdigit():
            return int(line)
    return None


async def _done_or_ended(task: asyncio.Future[Any], process: asyncio.subprocess.Process, seconds: float) -> None:
    """Waits until `task` is done, `process` has ended, or `seconds` have passed.

    Reading from a process, and waiting for it, ends only when its children have closed its pipes too.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + seconds
    while not task.done() and process.returncode is None and loop.time() < deadline_s:
        await asyncio.wait({task}, timeout=_LOOK_S)


def last_line(log: Path) -> str:
    """The last line that a process printed; empty if it printed nothing."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return text.rstrip().rpartition("\n")[2].strip()
