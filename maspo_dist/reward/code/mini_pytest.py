"""What tests of programs use of pytest, which no sandbox has: raises, approx and mark.parametrize."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any


def pytest_module() -> ModuleType:
    """A module `pytest`. Using any other part of pytest raises ImportError."""
    made = ModuleType("pytest")
    made.__dict__.update(
        raises=Raises, approx=Approx, mark=SimpleNamespace(parametrize=parametrize), __getattr__=_lacks
    )
    return made


def _lacks(name: str) -> Any:
    raise (AttributeError if name.startswith("__") else ImportError)(f"pytest.{name} is not available")


class Raises:
    """`with raises(ValueError, match="no") as caught`. Exceptions of the program's own stand for any."""

    def __init__(self, kinds: Any, match: str | None = None) -> None:
        self._kinds = kinds if isinstance(kinds, (type, tuple)) else Exception
        self._match = match
        self.value: BaseException | None = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> bool:
        if value is None:
            raise AssertionError("nothing was raised")
        self.value = value
        return isinstance(value, self._kinds) and (self._match is None or bool(re.search(self._match, str(value))))


class Approx:
    """`found == approx(expected)`, for numbers and for lists of them."""

    def __init__(self, expected: Any, rel: float = 1e-6, abs: float = 1e-12) -> None:  # noqa: A002 - pytest's name
        self._expected = expected
        self._tolerances = rel, abs

    def __eq__(self, found: object) -> bool:
        if isinstance(self._expected, (list, tuple)):
            mine = [Approx(value, *self._tolerances) for value in self._expected]
            return isinstance(found, (list, tuple)) and mine == list(found)
        rel, absolute = self._tolerances
        return isinstance(found, (int, float)) and math.isclose(found, self._expected, rel_tol=rel, abs_tol=absolute)

    __hash__ = None  # type: ignore[assignment]


def parametrize(names: str | Sequence[str], values: Sequence[Any]) -> Callable[[Any], Any]:
    """Runs a test with each of `values`."""
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def test_all(*outer: Any, **given: Any) -> None:
            for value in values:
                test(*outer, **dict(zip(keys, value if len(keys) > 1 else [value], strict=True)), **given)

        return test_all

    return decorate
