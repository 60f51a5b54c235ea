"""Messages between the judge and the program that it calls, inside their sandboxes.

Expected values stay with the judge. Results travel as plain data, so that an object that claims to equal everything
arrives as a handle that equals nothing but its plain data.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any

_SEQUENCES = (list, tuple, set, frozenset)
_NUMBERS = {"Decimal": "decimal", "Fraction": "fractions"}
_TIMES = ("date", "time", "datetime")
_DEPTH = 50


class UnrunnableError(BaseException):
    """The tests do what cannot be judged. No `except Exception` of theirs catches it."""


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


def encode(value: Any, keep: Callable[[Any], Any], depth: int = 0) -> Any:
    """Plain data as JSON. `keep` says what stands for any other object."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind in (float, complex):
        return {kind.__name__: repr(value)}
    if kind is bytes:
        return {"bytes": value.hex()}
    if depth < _DEPTH and kind in _SEQUENCES:
        return {kind.__name__: [encode(item, keep, depth + 1) for item in value]}
    if depth < _DEPTH and kind is dict:
        return {"dict": [[encode(k, keep, depth + 1), encode(v, keep, depth + 1)] for k, v in value.items()]}
    if _NUMBERS.get(kind.__name__) == kind.__module__:
        return {kind.__name__: str(value)}
    if kind is slice:
        return {"slice": [encode(item, keep, depth + 1) for item in (value.start, value.stop, value.step)]}
    if kind.__module__ == "datetime":
        return _time(value, keep)
    if (plain := plain_scalar(value)) is not value:
        return encode(plain, keep, depth)
    return keep(value)


def _time(value: Any, keep: Callable[[Any], Any]) -> Any:
    kind = type(value).__name__
    if kind == "timedelta":
        return {kind: [value.days, value.seconds, value.microseconds]}
    # Only a fixed offset survives as text.
    is_text = kind in _TIMES and type(getattr(value, "tzinfo", None)).__name__ in ("NoneType", "timezone")
    return {kind: value.isoformat()} if is_text else keep(value)


def plain_scalar(value: Any) -> Any:
    """Numbers and text of other classes, numpy's for example, as int, float and str."""
    if isinstance(value, (int, str, float)):
        return next(kind for kind in (int, str, float) if isinstance(value, kind))(value)
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def plain_data(value: Any) -> Any:
    """Containers of other classes (Counter, deque, range, generators, numpy arrays) as dict, set, tuple or list."""
    if isinstance(value, (str, bytes)) or not any("__iter__" in vars(kind) for kind in type(value).__mro__):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    for kind in (dict, set, frozenset, tuple):
        if isinstance(value, kind):
            return kind(value)
    return list(value)


def decode(data: Any, kept: Callable[[Any], Any]) -> Any:
    """The inverse of `encode`. `kept` makes an object from the data that `keep` gave for that object."""
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item, kept) for item in content)
    if kind == "dict":
        return {decode(k, kept): decode(v, kept) for k, v in content}
    if kind in ("float", "complex"):
        return getattr(builtins, kind)(content)
    if kind in _NUMBERS:
        return getattr(importlib.import_module(_NUMBERS[kind]), kind)(content)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "slice":
        return slice(*(decode(item, kept) for item in content))
    if kind == "timedelta":
        return importlib.import_module("datetime").timedelta(*content)
    if kind in _TIMES:
        return getattr(importlib.import_module("datetime"), kind).fromisoformat(content)
    return kept(data)
