"""Values of simple formulas in plain floats: enough to tell most different answers apart without sympy.

It only ever says "different": formulas that agree here, or that it cannot read, go to algebra. Symbols take
fixed positive values, the same on both sides.
"""

from __future__ import annotations

import cmath
import re
import zlib

_MAX_CHARS = 300
_MAX_DEPTH = 20
_POINTS = 2
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\\[A-Za-z]+)|([A-Za-z])(_(?:\w|\{\w+\}))?|([-+*/^(){}\[\]]))")
_CONSTANTS: dict[str, complex] = {"\\pi": cmath.pi, "e": cmath.e, "i": 1j}
_FUNCTIONS = {"\\sin": cmath.sin, "\\cos": cmath.cos, "\\tan": cmath.tan, "\\ln": cmath.log, "\\exp": cmath.exp}
_TRANSCENDENTAL = re.compile(r"\\(?:sin|cos|tan|ln|exp)(?![A-Za-z])")
_GREEK = re.compile(r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|nu|rho|sigma|tau|phi|omega|epsilon|Delta|Omega)")
_PRODUCT_STARTS = frozenset({"(", "{", "\\frac", "\\sqrt", *_CONSTANTS, *_FUNCTIONS})


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


def same_equation(found: str, expected: str) -> bool | None:
    """Whether two equations are multiples of each other; None where that cannot be told, or proves nothing.

    Equations that are no multiples may have the same solutions; those with functions of the symbols hardly do.
    """
    ratios = []
    for point in range(_POINTS + 1):
        left, right = _gap(found, point), _gap(expected, point)
        if left is None or right is None or abs(right) < 1e-6 or abs(left) < 1e-6:
            return None
        ratios.append(left / right)
    if all(abs(ratio - ratios[0]) <= 1e-9 * abs(ratios[0]) for ratio in ratios):
        return True
    return False if _TRANSCENDENTAL.search(found) and _TRANSCENDENTAL.search(expected) else None


def _gap(equation: str, point: int) -> complex | None:
    """Left side less right side."""
    sides = equation.split("=")
    values = [_evaluate(side, point) for side in sides]
    if len(values) != 2 or values[0] is None or values[1] is None:
        return None
    return values[0][0] - values[1][0]


def is_value(text: str) -> bool:
    """Whether `text` is one formula that can be evaluated here: not a list, an interval or a relation."""
    return _evaluate(text, 0) is not None


def _evaluate(text: str, point: int) -> tuple[complex, float] | None:
    """The value, and the largest size of anything on the way to it."""
    if len(text) > _MAX_CHARS:
        return None
    tokens = _tokens(text)
    if not tokens:
        return None
    reader = _Reader(tokens, point)
    try:
        value = reader.sum(0)
    except (_UnreadableError, ArithmeticError, ValueError):
        return None
    return (value, reader.largest) if reader.at_end() and cmath.isfinite(value) else None


def _tokens(text: str) -> list[str] | None:
    tokens = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            return None
        number, command, letter, subscript, sign = match.groups()
        tokens.append(number or command or (letter or "") + (subscript or "") or sign)
        position = match.end()
    return tokens


class _UnreadableError(Exception):
    """The formula has something that is not read here."""


class _Reader:
    """Recursive descent over tokens: sums of products of powers."""

    def __init__(self, tokens: list[str], point: int) -> None:
        self._tokens = tokens
        self._position = 0
        self._point = point
        self.largest = 0.0

    def at_end(self) -> bool:
        return self._position == len(self._tokens)

    def sum(self, depth: int) -> complex:
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        total = self._signed(depth)
        while self._peek() in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            total = self._seen(total + sign * self._signed(depth))
        return total

    def _signed(self, depth: int) -> complex:
        sign = 1
        while self._peek() in ("+", "-"):
            sign *= 1 if self._take() == "+" else -1
        return sign * self._product(depth)

    def _product(self, depth: int) -> complex:
        value = self._power(depth)
        while True:
            token = self._peek()
            if token in ("*", "\\cdot", "\\times"):
                self._take()
                value = self._seen(value * self._power(depth))
            elif token == "/":
                self._take()
                value = self._seen(value / self._power(depth))
            elif token is not None and (token in _PRODUCT_STARTS or token[0].isalpha() or _GREEK.fullmatch(token)):
                value = self._seen(value * self._power(depth))
            else:
                return value

    def _power(self, depth: int) -> complex:
        base = self._atom(depth)
        if self._peek() != "^":
            return base
        self._take()
        exponent = self._group(depth) if self._peek() == "{" else self._atom(depth)
        if self._peek() == "^":
            raise _UnreadableError
        return self._raise(base, exponent)

    def _raise(self, base: complex, exponent: complex) -> complex:
        negative_base = base.imag == 0 and base.real < 0
        if abs(exponent) > 500 or (negative_base and exponent != round(exponent.real)):
            raise _UnreadableError
        return self._seen(base**exponent)

    def _atom(self, depth: int) -> complex:
        token = self._take()
        if token[0].isdigit() or token[0] == ".":
            return self._seen(complex(float(token)))
        if token in ("(", "{"):
            return self._closed({"(": ")", "{": "}"}[token], depth)
        if token == "\\frac":
            return self._seen(self._group(depth) / self._group(depth))
        if token == "\\sqrt":
            return self._root(depth)
        if token in _FUNCTIONS:
            if self._peek() not in ("(", "{"):
                raise _UnreadableError
            return self._seen(_FUNCTIONS[token](self._atom(depth + 1)))
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token[0].isalpha() or _GREEK.fullmatch(token):
            return self._symbol(token)
        raise _UnreadableError

    def _root(self, depth: int) -> complex:
        index: complex = 2
        if self._peek() == "[":
            self._take()
            index = self._closed("]", depth)
        inside = self._group(depth)
        if index != 2 and inside.real < 0:
            raise _UnreadableError
        return self._seen(inside ** (1 / index))

    def _symbol(self, name: str) -> complex:
        # Any fixed spread will do; crc32 is the same in every process.
        return complex(0.3 + zlib.crc32(f"{name}{self._point}".encode()) % 9973 / 5000)

    def _group(self, depth: int) -> complex:
        if self._take() != "{":
            raise _UnreadableError
        return self._closed("}", depth)

    def _closed(self, closing: str, depth: int) -> complex:
        value = self.sum(depth + 1)
        if self._take() != closing:
            raise _UnreadableError
        return value

    def _seen(self, value: complex) -> complex:
        self.largest = max(self.largest, abs(value))
        return value

    def _peek(self) -> str | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _take(self) -> str:
        if self.at_end():
            raise _UnreadableError
        self._position += 1
        return self._tokens[self._position - 1]
