"""Environments and tools of a user, good, broken and hostile, named as `python:doubles.own_environments:…`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

from maspo_dist.environments.protocol import Step, Task

#: In the command line of all that `Hostile` starts.
MARKER = "environment-torture-marker"


class HigherLower:
    """Says whether a guess is too high or too low; the reference is the number."""

    def reset(self, task: Task) -> None:
        self._number = int(task.reference)

    def step(self, response: str) -> Step:
        try:
            guess = int(response)
        except ValueError:
            return Step(observation="a number, please", metrics={"unreadable": 1})
        if guess == self._number:
            return Step(observation="right", done=True, reward=1.0)
        return Step(observation="higher" if guess < self._number else "lower", reward=0.0)


class Dice:
    """Throws dice from the random module, which is seeded with the task, in a coroutine."""

    async def reset(self, task: Task) -> None:
        await asyncio.sleep(0)

    async def step(self, response: str) -> Step:
        await asyncio.sleep(0)
        return Step(observation=str(random.randrange(10**9)))


class Restless:
    """Breaks the contract: not (task, responses) alone decides."""

    def reset(self, task: Task) -> None:
        self._turns = 0

    def step(self, response: str) -> Step:
        self._turns += 1
        return Step(observation=os.urandom(8).hex() if self._turns == 2 else "as always")


class Fragile:
    """Breaks the contract: it answers digits only."""

    def reset(self, task: Task) -> None:
        pass

    def step(self, response: str) -> Step:
        return Step(observation=str(int(response)))


class Stepless:
    """Breaks the contract: it has no step."""

    def reset(self, task: Task) -> None:
        pass


class Demanding(Fragile):
    """Breaks the contract: nobody can make it."""

    def __init__(self, size: int) -> None:
        self.size = size


class Hostile:
    """Does what the response says; to other responses it answers `ok` and its reference."""

    def reset(self, task: Task) -> None:
        self._reference = task.reference
        if task.reference == "hang in reset":
            time.sleep(600)

    def step(self, response: str) -> Step:
        if response in _DEEDS:
            _DEEDS[response]()
        match response:
            case "spin-in-c":
                return Step(observation=str(len(str(7 ** (7**9)))))
            case "allocate":
                return Step(observation=str(len(bytearray(100 << 30))))
            case "threads":
                for _ in range(200):
                    Thread(target=time.sleep, args=(600,), daemon=True).start()
            case "raise":
                raise RuntimeError("as asked")
            case "recurse":
                return self.step(response)
            case "no-step":
                return None  # type: ignore[return-value]
            case "no-number":
                return Step(reward=float("nan"))
            case "bytes":
                return Step(observation=b"\xff\xfe")  # type: ignore[arg-type]
            case "megabyte":
                return Step(observation="start " + "x" * 1_000_000 + " end")
            case "binary":
                return Step(observation="\x00\x01 \ud800\udfff é")
            case "secrets":
                return Step(observation=" ".join(sorted(_secrets() - {self._reference})))
        return Step(observation=f"ok {self._reference}", reward=1.0)


def _spin() -> None:
    while True:
        pass


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def _wait_beside_children() -> None:
    _start_children()
    time.sleep(600)


def _leave_children() -> None:
    _start_children()
    os._exit(0)


def _wait_beside_a_daemon() -> None:
    _start_daemon()
    time.sleep(600)


def _fork_for_ever() -> None:
    while True:
        with contextlib.suppress(OSError):
            if os.fork() == 0:
                time.sleep(600)
        time.sleep(0.02)


def _grow() -> None:
    kept: list[bytearray] = []
    while True:
        kept.append(bytearray(1 << 22))


def _close_everything() -> None:
    os.closerange(0, 256)
    time.sleep(600)


def _write_to_all_files(content: bytes) -> None:
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(descriptor, content)


#: What `Hostile` does before it answers; most of it never ends, or ends the process.
_DEEDS: Mapping[str, Callable[[], object]] = {
    "spin": _spin,
    "ignore-signals": _ignore_signals,
    "children": _wait_beside_children,
    "children-and-exit": _leave_children,
    "daemon": _wait_beside_a_daemon,
    "forks": _fork_for_ever,
    "grow": _grow,
    "exit": lambda: os._exit(3),
    "sys-exit": lambda: sys.exit(0),
    "segfault": lambda: ctypes.string_at(0),
    "kill-itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "close-everything": _close_everything,
    "garble": lambda: _write_to_all_files(b"\xff[[[\n"),
    "flood": lambda: _write_to_all_files(b"x" * 30_000_000),
    "print": lambda: print("x" * 10_000_000, flush=True),
}


def _start_children() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)", MARKER]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)


def _start_daemon() -> None:
    daemon = f"import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  time.sleep(600)  # {MARKER}"
    subprocess.run([sys.executable, "-c", daemon, MARKER], check=False)


def _secrets() -> set[str]:
    """All that a process finds of the references of others: in its own memory, and where processes can be looked at."""
    found = {value for value in gc.get_objects() if isinstance(value, str) and value.startswith("secret-")}
    for holder in gc.get_objects():
        if isinstance(holder, dict):
            found |= {value for value in list(holder.values()) if isinstance(value, str) and value[:7] == "secret-"}
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if b"secret-" in place.read_bytes():
                found.add(str(place))
    return found


def add(a: int, b: int = 0) -> int:
    """
    Adds two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


def calc(expression: str) -> str:
    """
    Computes a sum.

    Args:
        expression: Numbers with + between them.
    """
    return str(sum(map(int, expression.split("+"))))


async def slow_add(a: int, b: int) -> dict[str, int]:
    """
    Adds two numbers, after a while.

    Args:
        a: The first number.
        b: The second number.
    """
    await asyncio.sleep(0.01)
    return {"sum": a + b}


class Notes:
    """Two tools that share what a trajectory wrote."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def write_note(self, line: str) -> int:
        """
        Keeps a line.

        Args:
            line: What to keep.
        """
        self._lines.append(line)
        return len(self._lines)

    def read_notes(self) -> str:
        """Gives back all lines."""
        return "\n".join(self._lines)


def hang(seconds: float) -> str:
    """
    Waits.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return "done"


def untyped(a, b):  # type: ignore[no-untyped-def]
    """
    Breaks the contract: its arguments have no types.

    Args:
        a: One.
        b: Another.
    """


def undocumented(a: int) -> int:
    return a


def half_documented(a: int, b: int) -> int:
    """
    Breaks the contract: nothing is said of b.

    Args:
        a: One.
    """
    return a + b


def holds_a_socket(line: socket.socket) -> str:
    """
    Breaks the contract: no JSON makes its argument.

    Args:
        line: Where to write.
    """
    return str(line)


class Empty:
    """Breaks the contract: a class without tools."""


NOT_A_TOOL = 3
