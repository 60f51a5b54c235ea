"""Runs a function on real process groups."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

#: Importing torch, transformers and DeepSpeed takes most of it on a busy machine.
DEADLINE_S = 420.0
#: Of what a rank printed, what a failure shows.
_SHOWN_CHARACTERS = 4000


class Ranks:
    """`world_size` spawned processes that each run `work(rank, world_size, address, *arguments)`."""

    def __init__(self, world_size: int, work: Callable[..., None], *arguments: Any) -> None:
        address = f"tcp://127.0.0.1:{_free_port()}"
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._logs = [Path(self._folder.name) / f"rank{rank}.log" for rank in range(world_size)]
        self._processes: list[BaseProcess] = [
            context.Process(target=_logged, args=(log, work, rank, world_size, address, *arguments))
            for rank, log in enumerate(self._logs)
        ]
        for process in self._processes:
            process.start()

    def is_alive(self) -> bool:
        return any(process.is_alive() for process in self._processes)

    def check(self) -> None:
        """Fails with what the ranks printed where one of them has."""
        assert not any(process.exitcode for process in self._processes), self.story()

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def story(self) -> str:
        """How far each rank came."""
        codes = [process.exitcode for process in self._processes]
        printed = [log.read_text(errors="replace")[-_SHOWN_CHARACTERS:] if log.exists() else "" for log in self._logs]
        return f"exit codes of the ranks: {codes}" + "".join(
            f"\n--- rank {rank} printed:\n{text}" for rank, text in enumerate(printed)
        )


def join(*groups: Ranks) -> None:
    """Waits for all ranks of all `groups`; ends the rest, and fails, once one has failed or time is up."""
    deadline = time.monotonic() + DEADLINE_S
    try:
        while any(group.is_alive() for group in groups):
            for group in groups:
                group.check()
                assert time.monotonic() < deadline, f"still at work after {DEADLINE_S:g} s: {group.story()}"
            time.sleep(0.05)
        for group in groups:
            group.check()
    finally:
        for group in groups:
            group.end()


def _logged(log: Path, work: Callable[..., None], *arguments: Any) -> None:
    """In the rank: what it prints, native threads and a fatal signal's stacks included, goes to `log`."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    code = 1
    try:
        work(*arguments)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        # At once, as a learner's process ends: DeepSpeed keeps the threads of a process group that was left, and the
        # interpreter's exit would take down under them what they work on.
        os._exit(code)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
