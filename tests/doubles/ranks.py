"""Runs a function on real process groups.

Importing torch, transformers and DeepSpeed takes a rank longer than most of its work. Hence a fork server imports them
once, and each rank starts as a fork of it: a process of its own that has computed nothing yet.
`printed_by_imports` is what the libraries printed meanwhile.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import multiprocessing.forkserver
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

#: Upper bound on the life of a group, on a busy machine.
DEADLINE_S = 420.0
#: A failure shows that much of the end of what each rank printed.
_SHOWN_CHARACTERS = 4000
_TESTS = Path(__file__).parents[1]
#: The fork server's standard output, a file in memory.
_PRINTED = os.memfd_create("printed")


class Ranks:
    """`world_size` processes that each run `work(rank, world_size, address, *arguments)`."""

    def __init__(self, world_size: int, work: Callable[..., None], *arguments: Any) -> None:
        address = f"tcp://127.0.0.1:{_free_port()}"
        context = multiprocessing.get_context("forkserver")
        _start_fork_server()
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
        """Fails with what the ranks printed if a rank has failed."""
        assert not any(process.exitcode for process in self._processes), self.story()

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def story(self) -> str:
        """Exit code and last output of each rank."""
        codes = [process.exitcode for process in self._processes]
        printed = [log.read_text(errors="replace")[-_SHOWN_CHARACTERS:] if log.exists() else "" for log in self._logs]
        return f"exit codes of the ranks: {codes}" + "".join(
            f"\n--- rank {rank} printed:\n{text}" for rank, text in enumerate(printed)
        )


def join(*groups: Ranks) -> None:
    """Waits for all ranks of all `groups`. Once a rank has failed or time is up, kills the others and fails."""
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
    """Runs in the rank. All it prints goes to `log`, the output of native threads and crash stacks included."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    # DeepSpeed collects garbage whenever it starts an engine, and there is none in what was imported.
    gc.freeze()
    code = 1
    try:
        work(*arguments)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        # At once, as a learner's process ends: DeepSpeed keeps the threads of a closed process group, and they would
        # outlive the objects that the interpreter's exit destroys.
        os._exit(code)


def printed_by_imports() -> str:
    """What the fork server has printed to standard output. Call it when a rank has run."""
    return os.pread(_PRINTED, os.fstat(_PRINTED).st_size, 0).decode(errors="replace")


def _start_fork_server() -> None:
    """Does nothing if the server runs. It ends with this process."""
    multiprocessing.set_forkserver_preload(["doubles.learner_imports"])
    inherited = os.environ.get("PYTHONPATH")
    stdout = os.dup(1)
    try:
        # The server looks for modules there, not in this process's sys.path.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_TESTS.parent), str(_TESTS), inherited]))
        os.dup2(_PRINTED, 1)
        multiprocessing.forkserver.ensure_running()
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        if inherited is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = inherited


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
