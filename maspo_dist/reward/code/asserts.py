"""Tests that call a program: relays messages between the judge and the candidate, each in its own sandbox."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maspo_dist.reward.code import harness
from maspo_dist.reward.code.sandbox import Limits, Program
from maspo_dist.reward.pool.wire import Connection
from maspo_dist.types import VerdictStatus

_LONGEST_LINE = 4 << 20


def run_asserts(program: str, tests: str, limits: Limits) -> tuple[VerdictStatus, str]:
    """Whether `tests` pass on `program`, and why not. Raises OSError when a sandbox cannot be started."""
    deadline = time.monotonic() + limits.wall_s
    with _running("serve_candidate", limits) as candidate, _running("run_tests", limits) as judge:
        try:
            return _relay(candidate, judge, program, tests, deadline)
        except TimeoutError:
            return "timeout", "wall time limit"


@contextlib.contextmanager
def _running(entry: str, limits: Limits) -> Iterator[Connection]:
    """Runs the function `entry` of the harness in a sandbox; yields the connection to it."""
    source = Path(harness.__file__).read_text(encoding="utf-8") + f"\n{entry}()\n"
    ours, theirs = socket.socketpair()
    with ours, theirs, Program(source, limits, theirs.fileno(), theirs.fileno()):
        theirs.close()
        yield Connection(ours, _LONGEST_LINE)


def _relay(
    candidate: Connection, judge: Connection, program: str, tests: str, deadline: float
) -> tuple[VerdictStatus, str]:
    try:
        loaded = _message(_ask(candidate, json.dumps({"program": program}).encode(), deadline))
    except (EOFError, ConnectionError, ValueError):
        return "wrong", "the program ended early"
    if "error" in loaded:
        return "wrong", f"{loaded['error']} while the program was loaded"
    try:
        request = _ask(judge, json.dumps({"tests": tests}).encode(), deadline)
        while "passed" not in (verdict := _message(request)):
            try:
                reply = _ask(candidate, request, deadline)
            except (EOFError, ConnectionError):
                return "wrong", "the program ended early"
            request = _ask(judge, reply, deadline)
    except (EOFError, ConnectionError, ValueError):
        return "error", "the tests ended early"
    return ("correct", "") if verdict["passed"] is True else ("wrong", str(verdict["reason"]))


def _ask(side: Connection, line: bytes, deadline: float) -> bytes:
    side.send(line + b"\n", deadline)
    return side.receive_line(deadline)


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except RecursionError:
        message = None
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message
