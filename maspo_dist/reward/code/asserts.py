"""Tests that call a program: relays messages between the judge and the candidate, each in its own sandbox."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from pathlib import Path
from typing import Any

from maspo_dist.reward.code import harness as code_harness
from maspo_dist.reward.code import sandbox_launcher
from maspo_dist.reward.code.sandbox import Limits, Program
from maspo_dist.types import VerdictStatus

_MAX_LINE_BYTES = 4 << 20
_READ_BYTES = 1 << 16


class _HungUp(Exception):  # noqa: N818 - the caller decides what it means
    """One side ended, or sent too much."""


def run_asserts(program: str, tests: str, limits: Limits) -> tuple[VerdictStatus, str]:
    """Whether `tests` pass on `program`, and why not. Raises OSError when a sandbox cannot be started."""
    harness = Path(code_harness.__file__).read_text(encoding="utf-8")
    script = (sandbox_launcher.PROGRAM_NAME,)
    with (
        Program(harness + "\nserve_candidate()\n", script, limits, subprocess.PIPE) as candidate,
        Program(harness + "\nrun_tests()\n", script, limits, subprocess.PIPE) as judge,
    ):
        try:
            return _relay(_Lines(candidate), _Lines(judge), program, tests)
        except TimeoutError:
            return "timeout", "wall time limit"
        except BrokenPipeError:
            return "wrong", "the program ended early"


def _relay(candidate: _Lines, judge: _Lines, program: str, tests: str) -> tuple[VerdictStatus, str]:
    try:
        candidate.write(json.dumps({"program": program}).encode())
        loaded = _message(candidate.read())
    except (_HungUp, ValueError, RecursionError):
        return "wrong", "the program ended early"
    if "error" in loaded:
        return "wrong", f"{loaded['error']} while the program was loaded"
    try:
        judge.write(json.dumps({"tests": tests}).encode())
        while True:
            line = judge.read()
            if "passed" in (verdict := _message(line)):
                return ("correct", "") if verdict["passed"] is True else ("wrong", str(verdict["reason"]))
            try:
                candidate.write(line)
                reply = candidate.read()
            except (_HungUp, BrokenPipeError):
                return "wrong", "the program ended early"
            judge.write(reply)
    except (_HungUp, ValueError):
        return "error", "the tests ended early"


def _message(line: bytes) -> dict[str, Any]:
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


class _Lines:
    """Lines to and from one sandboxed program, within its wall time."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._buffer = bytearray()
        stdin, stdout = program.process.stdin, program.process.stdout
        assert stdin is not None
        assert stdout is not None
        self._in, self._out = stdin.fileno(), stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def write(self, line: bytes) -> None:
        data = memoryview(line.rstrip(b"\n") + b"\n")
        while data:
            self._wait(self._in, selectors.EVENT_WRITE)
            data = data[os.write(self._in, data) :]

    def read(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._wait(self._out, selectors.EVENT_READ)
            data = os.read(self._out, _READ_BYTES)
            if not data or len(self._buffer) > _MAX_LINE_BYTES:
                raise _HungUp
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _wait(self, descriptor: int, event: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            if not selector.select(max(self._program.remaining_s(), 0.0)):
                raise TimeoutError("wall time limit")
