"""The two programs that test a candidate by asserts. Each runs in its own sandbox, and they share no memory.

    judge       runs the tests; every name that they do not define refers to the candidate
    candidate   holds the program; answers calls, one JSON object per line

Expected values stay with the judge. Results travel as plain data, so that an object that claims to equal everything
arrives as a handle that equals nothing. The sandbox gets this file as source text: standard library only.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import traceback
from typing import IO, Any

_SEQUENCES = (list, tuple, set, frozenset)
_DEPTH = 50


class Handle:
    """An object in the candidate that is not plain data: a function, a class, an instance."""

    def __init__(self, channel: Channel, path: dict[str, Any]) -> None:
        self._channel = channel
        self._path = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.ask({"op": "attr", "on": self._path, "name": name})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = {"op": "call", "on": self._path, "args": encode(args, []), "kwargs": encode(kwargs, [])}
        return self._channel.ask(request)


class Channel:
    """Lines of JSON over the original input and output, which the program itself can no longer reach."""

    def __init__(self) -> None:
        self._incoming: IO[str] = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="surrogatepass")
        self._outgoing: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)

    def send(self, message: dict[str, Any]) -> None:
        self._outgoing.write(json.dumps(message) + "\n")
        self._outgoing.flush()

    def receive(self) -> dict[str, Any]:
        line = self._incoming.readline()
        if not line:
            sys.exit(0)
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, request: dict[str, Any]) -> Any:
        """Sends a request of the judge. Raises what the candidate raised, as a built-in exception."""
        self.send(request)
        reply = self.receive()
        if "error" in reply:
            kind = getattr(builtins, reply["error"], RuntimeError)
            is_exception = isinstance(kind, type) and issubclass(kind, Exception)
            raise (kind if is_exception else RuntimeError)(reply.get("message", ""))
        return decode(reply["value"], self)


def encode(value: Any, kept: list[Any], depth: int = 0) -> Any:
    """Plain data as JSON. Any other object, subclasses of plain types too, goes to `kept` and travels as its number."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float or kind is complex:
        return {kind.__name__: repr(value)}
    if kind is bytes:
        return {"bytes": value.hex()}
    if depth < _DEPTH and kind in _SEQUENCES:
        return {kind.__name__: [encode(item, kept, depth + 1) for item in value]}
    if depth < _DEPTH and kind is dict:
        return {"dict": [[encode(k, kept, depth + 1), encode(v, kept, depth + 1)] for k, v in value.items()]}
    if kind is Handle:
        return value._path
    kept.append(value)
    return {"kept": len(kept) - 1}


def decode(data: Any, side: Channel | list[Any]) -> Any:
    """The inverse of `encode`. A kept object becomes a Handle for the judge, and itself for the candidate."""
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item, side) for item in content)
    if kind == "dict":
        return {decode(k, side): decode(v, side) for k, v in content}
    if kind in ("float", "complex"):
        return getattr(builtins, kind)(content)
    if kind == "bytes":
        return bytes.fromhex(content)
    if isinstance(side, list):
        return side[content]
    return Handle(side, data)


def serve_candidate() -> None:
    """Runs the program, then answers the judge until the judge ends."""
    channel = Channel()
    names: dict[str, Any] = {"__name__": "candidate"}
    kept: list[Any] = []
    try:
        exec(compile(channel.receive()["program"], "candidate.py", "exec"), names)
    except BaseException as error:  # the program is what is tested: whatever it raises is a reply
        channel.send({"error": type(error).__name__, "message": str(error)[:300]})
    else:
        channel.send({"value": None})
    while True:
        request = channel.receive()
        try:
            reply = {"value": encode(_answer(request, names, kept), kept)}
        except BaseException as error:  # as above
            reply = {"error": type(error).__name__, "message": str(error)[:300]}
        channel.send(reply)


def _answer(request: dict[str, Any], names: dict[str, Any], kept: list[Any]) -> Any:
    if request["op"] == "name":
        return names[request["name"]]
    target = decode(request["on"], kept)
    if request["op"] == "attr":
        return getattr(target, request["name"])
    return target(*decode(request["args"], kept), **decode(request["kwargs"], kept))


class Names(dict[str, Any]):
    """The globals of the tests: names that neither the tests nor Python define come from the candidate."""

    def __init__(self, channel: Channel) -> None:
        super().__init__({"__name__": "tests", "__builtins__": builtins})
        self._channel = channel

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return self._channel.ask({"op": "name", "name": name})


def run_tests() -> None:
    """Runs the tests and sends whether they passed."""
    channel = Channel()
    tests = channel.receive()["tests"]
    try:
        exec(compile(tests, "tests.py", "exec"), Names(channel))
    except BaseException as error:  # a failing test may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        channel.send({"passed": False, "reason": f"{type(error).__name__} in line {line} of the tests"})
    else:
        channel.send({"passed": True, "reason": ""})
