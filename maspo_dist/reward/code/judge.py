"""The judge of a program that is called: runs its tests, in a sandbox of its own."""

from __future__ import annotations

import builtins
import ctypes
import importlib
import math
import re
import sys
from functools import partial
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from maspo_dist.reward.code.handles import Candidate, Handle, kept_by_program
from maspo_dist.reward.code.harness import prepare, provided
from maspo_dist.reward.code.messages import Channel, UnrunnableError, decode
from maspo_dist.reward.code.mini_pytest import needs, pytest_module, run_test

_FLOAT_TOLERANCE = 1e-6
_PR_SET_DUMPABLE = 4
#: Modules by which tests import the program.
_PROGRAM_MODULES = ("solution", "main", "candidate", "your_module")
#: Errors of Python that a handle causes where the object itself might not.
_CAUSED_BY_HANDLE = re.compile(
    r"\bHandle\b|catching classes that do not|must be an exception type|issubclass\(\) arg 1|got <coroutine object"
)


class Names(dict[str, Any]):
    """The globals of the tests: names that neither the tests nor Python define come from the candidate."""

    def __init__(self, candidate: Candidate, fallback: dict[str, Any]) -> None:
        super().__init__({"__name__": "tests", "__file__": "tests.py", "__builtins__": builtins})
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
        if error is not candidate.raised and _is_unable(error):
            reply = {"unable": f"the tests cannot run: {error}"}
    channel.send(reply)


def _is_unable(error: BaseException) -> bool:
    """Whether an error of the tests says nothing about the program."""
    if isinstance(error, (TypeError, AttributeError, ValueError)):
        return _CAUSED_BY_HANDLE.search(str(error)) is not None
    return isinstance(error, (ImportError, SyntaxError, UnrunnableError))


def _line(error: BaseException) -> int:
    """The last line of the tests that an error passed."""
    line, trace = 0, error.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests.py" else line
        trace = trace.tb_next
    return line


def run_calls(candidate: Candidate, function: str, calls: Any) -> str:
    """Calls the function of the program; says which of the encoded `calls` gives another result, or an empty text."""
    cases: list[dict[str, Any]] = decode(calls, kept_by_program)
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
        found = found.__plain__()
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
    if "unittest" in code.co_names:
        # All tests run below, and a runner of unittest would hide how they end.
        unittest: Any = importlib.import_module("unittest")
        unittest.main = lambda *args, **options: None
    try:
        exec(code, names)
    except SystemExit as end:
        if end.code:
            raise
    _run_tests_in(names)
    return ""


def _run_tests_in(names: Names) -> None:
    """Runs the functions and classes of tests, each function between its set-up and its clean-up."""
    module, defined = SimpleNamespace(**names), list(names.items())
    _call(module, ("setUpModule", "setup_module"), module)
    for name, test in defined:
        if name.startswith("test") and isinstance(test, FunctionType):
            if missing := needs(test):
                raise UnrunnableError(f"{name} needs {', '.join(missing)}, such as fixtures of pytest")
            _call(module, ("setup_function",), test)
            run_test(test)
            _call(module, ("teardown_function",), test)
        elif isinstance(test, type) and (name.startswith("Test") or hasattr(test, "assertEqual")):
            _run_class(test)


def _run_class(cls: type) -> None:
    """Runs the methods of a class of tests, of unittest or of pytest, each on an object of its own."""
    names = [name for name in dir(cls) if name.startswith("test") and callable(getattr(cls, name))]
    _call(cls, ("setUpClass", "setup_class") if names else (), cls)
    for name in names:
        test: Any = cls(name) if hasattr(cls, "assertEqual") else cls()
        method = getattr(test, name)
        if missing := needs(method)[hasattr(method, "__self__") :]:
            raise UnrunnableError(f"{cls.__name__}.{name} needs {', '.join(missing)}, such as fixtures of pytest")
        _call(test, ("setUp", "setup_method", "setup"), method)
        run_test(method)
        _call(test, ("tearDown", "teardown_method", "teardown"), method)


def _call(place: Any, names: tuple[str, ...], about: Any) -> None:
    """Calls the functions of a set-up or a clean-up that `place` has, with what they are about if they take it."""
    for name in names:
        if function := getattr(place, name, None):
            run_test(function, *[about] * len(needs(function)[hasattr(function, "__self__") :]))
