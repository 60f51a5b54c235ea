"""Runs a function on real process groups."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from typing import Any

#: Importing torch, transformers and DeepSpeed takes most of it on a busy machine.
DEADLINE_S = 420.0


class Ranks:
    """`world_size` spawned processes that each run `work(rank, world_size, address, *arguments)`."""

    def __init__(self, world_size: int, work: Callable[..., None], *arguments: Any) -> None:
        address = f"tcp://127.0.0.1:{_free_port()}"
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = [
            context.Process(target=work, args=(rank, world_size, address, *arguments)) for rank in range(world_size)
        ]
        for process in self._processes:
            process.start()

    def join(self) -> None:
        """Waits for all; fails, and ends the rest, as soon as one has failed or time is up."""
        deadline = time.monotonic() + DEADLINE_S
        try:
            while any(process.is_alive() for process in self._processes):
                codes = [process.exitcode for process in self._processes]
                assert not any(codes), f"exit codes of the ranks: {codes}"
                assert time.monotonic() < deadline, f"ranks still at work after {DEADLINE_S:g} s"
                time.sleep(0.05)
            codes = [process.exitcode for process in self._processes]
            assert codes == [0] * len(codes), f"exit codes of the ranks: {codes}"
        finally:
            for process in self._processes:
                if process.is_alive():
                    process.kill()
                process.join()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
