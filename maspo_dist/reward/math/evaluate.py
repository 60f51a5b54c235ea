"""Values of simple formulas in plain floats: enough to tell most different answers apart without sympy.

This module only proves formulas different: formulas that agree here, or that it cannot read, go to algebra. A symbol
has a fixed positive value, the same on both sides.
"""

from __future__ import annotations

import ast
import cmath
import re
import zlib
from collections.abc import Callable, Mapping

_MAX_CHARS = 300
_MAX_EXPONENT = 500
_POINTS = 2
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)
    |(?P<operator>\\(?:cdot|times)(?![A-Za-z])|[-+*/^])
    |(?P<function>\\(?:sin|cos|tan|ln|exp)(?![A-Za-z])(?=\s*[({])|\\frac(?=\s*\{)|\\sqrt(?=\s*[{[]))
    |(?P<symbol>\\(?:pi|alpha|beta|gamma|delta|theta|lambda|mu|nu|rho|sigma|tau|phi|omega|epsilon|Delta|Omega)(?![A-Za-z])
        |[A-Za-z](?:_(?:\w|\{\w+\}))?)
    |(?P<opening>[({[])|(?P<closing>[)}\]]))""",
    re.VERBOSE,
)
_PYTHON = {"\\cdot": "*", "\\times": "*", "^": "**", "{": "(", "}": ")"}
_CONSTANTS: dict[str, complex] = {"\\pi": cmath.pi, "e": cmath.e, "i": 1j}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "ln": cmath.log, "exp": cmath.exp
}  # fmt: skip
_ENDS_VALUE = ("number", "symbol", "closing")
_STARTS_VALUE = ("symbol", "function", "opening")


def are_different(found: str, expected: str, tolerance: float) -> bool:
    """True where both can be evaluated and are further apart than `tolerance`, relative, at some point."""
    for point in range(_POINTS):
        left, right = _evaluate(found, point), _evaluate(expected, point)
        if left is None or right is None:
            return False
        scale = max(abs(left[0]), abs(right[0]))
        # Sums of large terms lose digits: what they may have lost is no difference.
        noise = 1e-9 * max(left[1], right[1])
        if abs(left[0] - right[0]) > tolerance * scale + noise:
            return True
    return False


def is_value(text: str) -> bool:
    """Whether `text` is one formula that can be evaluated here: not a list, an interval or a relation."""
    return _evaluate(text, 0) is not None


def _evaluate(text: str, point: int) -> tuple[complex, float] | None:
    """The value, and the largest size of anything on the way to it."""
    python = _as_python(text.rstrip())
    if python is None:
        return None
    source, names = python
    reader = _Reader({name: _value_of(written, point) for name, written in names.items()})
    try:
        value = reader.value(ast.parse(source, mode="eval").body)
    except (SyntaxError, _UnreadableError, ArithmeticError, ValueError):
        return None
    return (value, reader.largest) if cmath.isfinite(value) else None


def _as_python(text: str) -> tuple[str, dict[str, str]] | None:
    """`2\\pi x` → `a*b*c`, and what a, b and c are."""
    pieces: list[str] = []
    names: dict[str, str] = {}
    position = 0
    before = ""
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match or len(text) > _MAX_CHARS:
            return None
        kind, token = match.lastgroup or "", match[match.lastgroup or ""]
        # `}{` joins the two arguments of a fraction, `]{` an index and its root: neither is a product.
        joins = token == "{" and text[position - 1 : position] in ("}", "]")
        if before in _ENDS_VALUE and kind in _STARTS_VALUE and not joins:
            pieces.append("*")
        if kind in ("number", "symbol"):
            names[f"v{len(names)}"] = token
            token = f"v{len(names) - 1}"
        pieces.append(_PYTHON.get(token, token.lstrip("\\")))
        before, position = kind, match.end()
    return " ".join(pieces), names


def _value_of(written: str, point: int) -> complex:
    if written[0].isdigit() or written[0] == ".":
        return complex(float(written))
    # Any fixed spread will do for a symbol; crc32 is the same in every process.
    return _CONSTANTS.get(written) or complex(0.3 + zlib.crc32(f"{written}{point}".encode()) % 9973 / 5000)


class _UnreadableError(Exception):
    """The formula has something that is not read here."""


class _Reader:
    """Evaluates a parsed formula; `largest` is the largest size of anything on the way."""

    def __init__(self, names: Mapping[str, complex]) -> None:
        self._names = names
        self.largest = 0.0

    def value(self, node: ast.expr) -> complex:
        match node:
            case ast.Name(id=name) if name in self._names:
                value = self._names[name]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inside):
                value = self.value(inside) * (-1 if isinstance(sign, ast.USub) else 1)
            case ast.BinOp(left=left, op=operator, right=right):
                value = _combined(self.value(left), operator, self.value(right))
            case ast.Call(func=ast.Call(func=ast.Name(id="frac"), args=[top]), args=[bottom]):
                value = self.value(top) / self.value(bottom)
            case ast.Call(func=ast.Name(id="sqrt"), args=[inside]):
                value = self.value(inside) ** 0.5
            case ast.Call(func=ast.Subscript(value=ast.Name(id="sqrt"), slice=index), args=[inside]):
                value = _power(self.value(inside), 1 / self.value(index))
            case ast.Call(func=ast.Name(id=function), args=[inside]) if function in _FUNCTIONS:
                value = _FUNCTIONS[function](self.value(inside))
            case _:
                raise _UnreadableError
        self.largest = max(self.largest, abs(value))
        return value


def _combined(left: complex, operator: ast.operator, right: complex) -> complex:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
    return _power(left, right)


def _power(base: complex, exponent: complex) -> complex:
    negative_base = base.imag == 0 and base.real < 0
    if abs(exponent) > _MAX_EXPONENT or (negative_base and exponent != round(exponent.real)):
        raise _UnreadableError
    return base**exponent
