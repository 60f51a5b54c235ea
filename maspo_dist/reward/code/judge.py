"""The judge of a program that is called: runs its tests, in a sandbox of its own."""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import math
import sys
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from maspo_dist.reward.code.harness import prepare, provided
from maspo_dist.reward.code.messages import Channel, decode, encode
from maspo_dist.reward.code.mini_pytest import pytest_module

_FLOAT_TOLERANCE = 1e-6
_PR_SET_DUMPABLE = 4
#: Modules by which tests import the program.
_PROGRAM_MODULES = ("solution", "main", "candidate", "your_module")


class Candidate:
    """The other end of the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        #: The last error of the program, and a line for people about the error.
        self.raised: BaseException | None = None
        self.report = ""

    def ask(self, op: str, on: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Sends one request. Raises what the program raised, as a built-in exception."""
        inputs = encode([args, kwargs], _path)
        self._channel.send({"op": op, "on": encode(on, _path), "inputs": inputs})
        reply = self._channel.receive()
        if "error" in reply:
            self.report, self.raised = str(reply["report"]), self._raised(reply)
            raise self.raised
        if "inputs" in reply:
            new_args, new_kwargs = decode(reply["inputs"], self._handle)
            for mine, new in zip((*args, *kwargs.values()), (*new_args, *new_kwargs.values()), strict=True):
                _refill(mine, new)
        return decode(reply["value"], self._handle)

    def _raised(self, reply: dict[str, Any]) -> BaseException:
        kind: Any = getattr(builtins, reply["error"], None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            with contextlib.suppress(TypeError):
                return kind(*decode(reply["args"], self._handle))
        return RuntimeError(self.report)

    def _handle(self, data: dict[str, int]) -> Handle:
        return Handle(self, data)


class Handle:
    """An object in the candidate that is not plain data: a function, a class, an instance, a deque.

    It is compared, counted and iterated by its plain data, which the candidate sends as lists, dicts and so on.
    """

    def __init__(self, candidate: Candidate, path: dict[str, Any]) -> None:
        self._candidate = candidate
        self._path = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._candidate.ask("attr", self, name)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._candidate.ask("call", self, *args, **kwargs)

    def _plain(self) -> Any:
        """The plain data; a Handle where there is none."""
        return self._candidate.ask("plain", self)

    def _data(self) -> Any:
        if isinstance(plain := self._plain(), Handle):
            raise TypeError("not a container")
        return plain

    def __eq__(self, other: object) -> bool:
        mine, theirs = self._plain(), other._plain() if isinstance(other, Handle) else other
        if isinstance(mine, Handle) and isinstance(theirs, Handle):
            # Two objects of the program's own classes: only the program knows whether they are equal.
            return self._candidate.ask("same", mine, theirs) is True
        return not isinstance(mine, Handle) and bool(mine == theirs)

    __hash__ = object.__hash__

    def __iter__(self) -> Any:
        return iter(self._data())

    def __len__(self) -> int:
        return len(self._data())

    def __getitem__(self, key: Any) -> Any:
        return self._data()[key]

    def __contains__(self, item: Any) -> bool:
        return item in self._data()

    def __bool__(self) -> bool:
        return isinstance(plain := self._plain(), Handle) or bool(plain)

    def __str__(self) -> str:
        return str(self._candidate.ask("text", self))


class UnsendableError(Exception):
    """The tests pass the program an object of their own."""


def _path(value: Any) -> Any:
    if isinstance(value, Handle):
        return value._path
    raise UnsendableError(f"they pass the program an object of type {type(value).__name__}")


def _refill(mine: Any, new: Any) -> None:
    """Copies into an argument what the program changed in its own copy."""
    if isinstance(mine, list) and isinstance(new, list):
        mine[:] = new
    elif isinstance(mine, (dict, set)) and type(mine) is type(new):
        mine.clear()
        mine.update(new)


class Names(dict[str, Any]):
    """The globals of the tests: names that neither the tests nor Python define come from the candidate."""

    def __init__(self, candidate: Candidate, fallback: dict[str, Any]) -> None:
        super().__init__({"__name__": "tests", "__builtins__": builtins})
        self._candidate = candidate
        self._fallback = fallback

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        try:
            return self._candidate.ask("name", name)
        except NameError:
            if name in self._fallback:
                return self._fallback[name]
            raise


def run_tests(numpy: str) -> None:
    """Runs the tests; sends whether they passed, or why they cannot run."""
    # Where the kernel has no Landlock, the program may open the files of this process in /proc; not from here on.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    prepare(numpy)
    channel = Channel()
    tests = channel.receive()
    candidate = Candidate(channel)
    try:
        reason = run_calls(candidate, **tests) if "calls" in tests else run_source(candidate, **tests)
        reply = {"passed": not reason, "reason": reason}
    except BaseException as error:  # a failing test may raise anything
        report = candidate.report if error is candidate.raised else f"{type(error).__name__}: {error}".rstrip(": ")
        reply = {"passed": False, "reason": f"{report}, in line {_line(error)} of the tests"}
        if isinstance(error, (ImportError, SyntaxError, UnsendableError)) and error is not candidate.raised:
            reply = {"unable": f"the tests cannot run: {error}"}
    channel.send(reply)


def _line(error: BaseException) -> int:
    """The last line of the tests that an error passed."""
    line, trace = 0, error.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests.py" else line
        trace = trace.tb_next
    return line


def run_calls(candidate: Candidate, function: str, calls: Any) -> str:
    """Calls the function of the program; says which of the encoded `calls` gives another result, or an empty text."""
    cases: list[dict[str, Any]] = decode(calls, _path)
    for number, call in enumerate(cases, 1):
        where = f"case {number} of {len(cases)}"
        try:
            found = candidate.ask("function", function, *call["args"], **call["kwargs"])
        except Exception as error:
            if error is not candidate.raised:
                raise
            return f"{where}: {candidate.report}"
        # A function that returns nothing may answer in its first argument.
        answers = [found, *(call["args"] or [*call["kwargs"].values()])[: found is None]]
        if not any(same_value(answer, expected) for answer in answers for expected in call["accepted"]):
            return f"{where}: other result: {found!r:.100}"
    return ""


def same_value(found: Any, expected: Any) -> bool:
    """Equal but for the rounding of floats, tuples in place of lists, and keys that JSON made texts."""
    if isinstance(found, Handle):
        found = found._plain()
    if isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same_value, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        if all(isinstance(key, str) for key in expected):
            found = {str(key): value for key, value in found.items()}
        return found.keys() == expected.keys() and all(same_value(found[key], expected[key]) for key in expected)
    if isinstance(found, float) or isinstance(expected, float):
        try:
            return math.isclose(found, expected, rel_tol=_FLOAT_TOLERANCE, abs_tol=1e-9)
        except TypeError:
            return False
    return not isinstance(found, Handle) and bool(found == expected)


def _imported(candidate: Candidate, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return candidate.ask("name", name)


def run_source(candidate: Candidate, source: str) -> str:
    """Runs tests in Python: the statements, then the functions and classes of tests that they define."""
    code = compile(source, "tests.py", "exec")
    names = Names(candidate, provided(code))
    for name in _PROGRAM_MODULES:
        module = sys.modules[name] = ModuleType(name)
        module.__dict__["__getattr__"] = partial(_imported, candidate)
    sys.modules["pytest"] = pytest_module()
    exec(code, names)
    for name, test in list(names.items()):
        if name.startswith("test") and isinstance(test, FunctionType):
            if test.__code__.co_argcount > len(test.__defaults__ or ()):
                raise UnsendableError(f"{name} needs arguments, such as fixtures of pytest")
            test()
        elif name.startswith("Test") and isinstance(test, type):
            _run_class(test)
    return ""


def _run_class(cls: type) -> None:
    """Runs the methods of a class of tests, of unittest or of pytest, each on an object of its own."""
    for name in [name for name in dir(cls) if name.startswith("test")]:
        is_case = hasattr(cls, "assertEqual")
        test = cls(name) if is_case else cls()
        for prepare_test in ("setUpClass", "setUp", "setup_method"):
            getattr(test, prepare_test, lambda: None)()
        getattr(test, name)()
