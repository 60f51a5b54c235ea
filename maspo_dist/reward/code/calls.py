"""Tests that call a program: relays messages between the judge and the candidate, each in its own sandbox."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

from maspo_dist.reward.code.sandbox import Entry, Limits, Program
from maspo_dist.reward.pool.wire import Connection
from maspo_dist.types import VerdictStatus

_LONGEST_LINE = 16 << 20


def run_calls(program: str, tests: dict[str, Any], limits: Limits) -> tuple[VerdictStatus, str]:
    """Whether `tests`, the arguments of `judge.run_source` or `judge.run_calls`, pass on `program`, and why not.

    Raises OSError when a sandbox cannot be started.
    """
    deadline = time.monotonic() + limits.wall_s
    with _running(program, "candidate.serve", limits) as candidate, _running("", "judge.run_tests", limits) as judge:
        try:
            return _relay(candidate, judge, tests, deadline)
        except TimeoutError:
            return "timeout", "wall time limit"


@contextlib.contextmanager
def _running(program: str, entry: Entry, limits: Limits) -> Iterator[Connection]:
    """Runs judge or candidate in a sandbox; yields the connection to that process."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Program(program, entry, limits, theirs.fileno(), theirs.fileno()):
        theirs.close()
        yield Connection(ours, _LONGEST_LINE)


def _relay(
    candidate: Connection, judge: Connection, tests: dict[str, Any], deadline: float
) -> tuple[VerdictStatus, str]:
    try:
        loaded = _message(candidate.receive_line(deadline))
    except (EOFError, ConnectionError, ValueError):
        return "wrong", "the program ended early"
    if "error" in loaded:
        return "wrong", str(loaded.get("report"))
    try:
        request = _ask(judge, json.dumps(tests).encode(), deadline)
        while "op" in (message := _message(request)):
            try:
                reply = _ask(candidate, request, deadline)
            except (EOFError, ConnectionError):
                return "wrong", "the program ended early"
            request = _ask(judge, reply, deadline)
    except (EOFError, ConnectionError, ValueError):
        return "error", "the tests ended early"
    if "unable" in message:
        return "error", message["unable"]
    return ("correct", "") if message["passed"] is True else ("wrong", str(message["reason"]))


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
