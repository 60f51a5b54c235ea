"""What tests of programs use of pytest, which no sandbox has: raises, approx and marks.

Whatever else they use makes them unrunnable, and never a program wrong.
"""

from __future__ import annotations

import cmath
import numbers
import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from maspo_dist.reward.code.messages import UnrunnableError

#: Marks that decide whether or how a test runs. The others only describe it.
_DECIDING_MARKS = ("skip", "skipif", "xfail", "usefixtures")
#: What calling a function returns that ran nothing of it.
_NOT_RUN = ("coroutine", "generator", "async_generator")


def pytest_module() -> ModuleType:
    """A module `pytest`. Using any other part of pytest raises ImportError."""
    made = ModuleType("pytest")
    made.__dict__.update(raises=raises, approx=Approx, mark=Marks(), __getattr__=_lacks)
    return made


def _lacks(name: str) -> Any:
    raise (AttributeError if name.startswith("__") else ImportError)(f"pytest.{name} is not available")


def run_test(test: Callable[..., Any], *args: Any, **given: Any) -> None:
    """Calls a test. Raises UnrunnableError when the call runs nothing of it."""
    if (kind := type(test(*args, **given)).__name__) in _NOT_RUN:
        raise UnrunnableError(f"a test is a function that only makes a {kind}")


def needs(test: Any) -> list[str]:
    """Names of the arguments of a test that have no default and that `parametrize` does not give, in order."""
    if hasattr(test, "needs"):
        return list(test.needs)
    code = getattr(test, "__code__", None)
    return list(code.co_varnames[: code.co_argcount - len(test.__defaults__ or ())]) if code else []


def raises(expected_exception: Any, *call: Any, match: str | None = None, check: None = None, **given: Any) -> Raises:
    """`with raises(ValueError, match="no") as caught`, or `raises(ValueError, function, *arguments)`."""
    if check is not None:
        raise UnrunnableError("pytest.raises with check is not available")
    caught = Raises(expected_exception, match)
    if call:
        with caught:
            call[0](*call[1:], **given)
    elif given:
        raise UnrunnableError(f"pytest.raises with {', '.join(given)} is not available")
    return caught


class Raises:
    """The block that must raise, and then the error that it raised."""

    def __init__(self, kinds: Any, match: str | None) -> None:
        self._kinds = kinds
        self._match = match
        self.value: BaseException | None = None

    @property
    def type(self) -> Any:
        """The built-in class of the error."""
        if hasattr(self.value, "__error__"):
            raise UnrunnableError("they read the class of an error of the program")
        return type(self.value)

    def match(self, pattern: str) -> bool:
        assert re.search(pattern, str(self.value))
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnrunnableError(f"{name} of pytest.raises is not available")

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> bool:
        if value is None:
            raise AssertionError("nothing was raised")
        self.value = value
        return isinstance(value, self._kinds) and (self._match is None or bool(re.search(self._match, str(value))))


class Approx:
    """`found == approx(expected)`, for numbers, and for lists and dicts of them. Other values must be equal."""

    def __init__(self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False) -> None:  # noqa: A002
        self._expected = expected.tolist() if hasattr(expected, "tolist") else expected
        self._options = rel, abs, nan_ok

    def __eq__(self, found: object) -> Any:
        found = found.tolist() if type(found).__module__ == "numpy" else found  # type: ignore[attr-defined]
        if isinstance(self._expected, (list, tuple)):
            mine = [Approx(value, *self._options) for value in self._expected]
            return mine == list(found) if isinstance(found, (list, tuple)) else NotImplemented
        if isinstance(self._expected, dict):
            named = {key: Approx(value, *self._options) for key, value in self._expected.items()}
            return named == found if isinstance(found, dict) else NotImplemented
        wanted, number = _number(self._expected), _number(found)
        return self._expected == found if wanted is None or number is None else self._near(wanted, number)

    def _near(self, expected: complex, found: complex) -> bool:
        rel, absolute, nan_ok = self._options
        if cmath.isnan(expected) or cmath.isnan(found):
            return bool(nan_ok) and cmath.isnan(expected) and cmath.isnan(found)
        if cmath.isinf(expected) or cmath.isinf(found):
            return expected == found
        # As in pytest: an absolute tolerance alone replaces the relative one.
        rel = rel if rel is not None else 1e-6 if absolute is None else 0
        tolerance = max(float(rel) * abs(expected), float(1e-12 if absolute is None else absolute))
        return expected == found or abs(expected - found) <= tolerance

    __hash__ = None  # type: ignore[assignment]
    #: numpy leaves comparisons with its arrays to this class.
    __array_ufunc__ = None


def _number(value: Any) -> complex | None:
    """A number of any kind that fits into a float; None for all else."""
    is_number = isinstance(value, numbers.Number)
    try:
        return complex(value) if is_number else None
    except OverflowError:
        return None


class Marks:
    """`pytest.mark`."""

    def __getattr__(self, name: str) -> Any:
        if name == "parametrize":
            return parametrize
        if name.startswith("__") or name in _DECIDING_MARKS:
            _lacks(name if name.startswith("__") else f"mark.{name}")
        return _describe


def _describe(*args: Any, **options: Any) -> Any:
    """A mark, with or without arguments."""
    return args[0] if len(args) == 1 and not options and callable(args[0]) else lambda test: test


def parametrize(
    argnames: str | Sequence[str],
    argvalues: Sequence[Any],
    indirect: object = False,
    ids: object = None,
    scope: object = None,
) -> Callable[[Any], Any]:
    """Runs a test with each of `argvalues`."""
    keys = [name.strip() for name in argnames.split(",") if name.strip()] if isinstance(argnames, str) else [*argnames]
    is_bare = isinstance(argnames, str) and len(keys) == 1
    rows = [[value] if is_bare or not hasattr(value, "__iter__") else list(value) for value in argvalues]
    if indirect or any(len(row) != len(keys) for row in rows):
        raise UnrunnableError(f"pytest.mark.parametrize of {', '.join(keys)} has other values, or is indirect")

    def decorate(test: Any) -> Any:
        if isinstance(test, type):
            raise UnrunnableError("pytest.mark.parametrize of a class is not available")

        def test_all(*outer: Any, **given: Any) -> None:
            for row in rows:
                run_test(test, *outer, **dict(zip(keys, row, strict=True)), **given)

        test_all.__dict__["needs"] = [name for name in needs(test) if name not in keys]
        return test_all

    return decorate
