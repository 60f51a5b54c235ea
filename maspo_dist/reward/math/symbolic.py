"""Equivalence of formulas by sympy, with math-verify's parser and rules.

Values are compared at a few points first: that settles most wrong answers without `simplify`, and, unlike
math-verify's own numeric test, it is relative, so that 1/2^{99} is not 1/2^{98}.

math-verify's time-outs use SIGALRM, which fails off the main thread: they are off here. The pool that runs this process
bounds the time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy.core.function import AppliedUndef

# math-verify warns once per process that the caller must bound the time. The pool does.
logging.getLogger("math_verify.grader").setLevel(logging.ERROR)

_SPELLING = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_CASE_MATTERS = ConversionConfig(lowercase_symbols=False)
#: The parser reads E and e as Euler's number, with an index too.
_INDEXED_E = re.compile(r"\\[A-Za-z]+|([Ee])_(?:(\w)|\{(\w+)\})")
#: Enough digits to tell 2^{100} + \sqrt{2} from 2^{100} - \sqrt{2}.
_DIGITS = 120
_SAME = sympy.Float("1e-100", _DIGITS)
_DIFFERENT = sympy.Float("1e-10")
#: Forms without a value at a point: compared as they stand.
_OPEN_FORMS = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Derivative, sympy.Limit, AppliedUndef)
#: Values of the symbols, in turn. Both sides must agree at positive values, and at negative ones where both are real.
_POINTS = ("0.7310585786", "1.6180339887", "2.7", "3", "-0.5772156649", "-2")


def equivalent(answer: str, reference: str) -> bool:
    """Whether two normalised formulas mean the same. Time and memory are not bounded here.

    MemoryError passes through; anything else that goes wrong inside sympy means "not shown equal".
    """
    expected = _parse(reference)
    found = _parse(answer)
    if expected is None or found is None or (isinstance(found, sympy.Basic) and found.has(sympy.nan, sympy.zoo)):
        return False
    if isinstance(expected, sympy.Expr) and isinstance(found, sympy.Expr):
        verdict = None if found.has(*_OPEN_FORMS) or expected.has(*_OPEN_FORMS) else _equal_at_points(found, expected)
        if verdict is not None:
            return verdict
    return bool(verify(expected, found, timeout_seconds=None, allow_set_relation_comp=True))


@lru_cache(maxsize=512)
def _parse(text: str) -> sympy.Basic | None:
    text = _rename_indexed_e(text) if "E_" in text or "e_" in text else text
    text = normalize_latex(text, config=_SPELLING)
    try:
        expression = latex2sympy(
            text,
            is_real=not should_treat_as_complex(text),
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CASE_MATTERS,
        )
        return expression.subs({symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"})
    except MemoryError:
        raise
    except Exception:  # the grammar raises bare Exception for all it cannot read
        return None


def _rename_indexed_e(text: str) -> str:
    """`2e_1` → `2\\xi_{e1}`."""
    return _INDEXED_E.sub(lambda e: f"\\xi_{{{e[1]}{e[2] or e[3]}}}" if e[1] else e[0], text)


def _equal_at_points(found: sympy.Expr, expected: sympy.Expr) -> bool | None:
    """False where a point shows them different, True where all points agree, None where points cannot tell."""
    symbols = sorted(found.free_symbols | expected.free_symbols, key=str)
    if bool(found.free_symbols) != bool(expected.free_symbols):
        # A symbol of one side only may cancel out, as in 1 + x - x; an unread word is symbols too, and may not.
        return None
    exact = not found.has(sympy.Float) and not expected.has(sympy.Float)
    agreed = False
    for values in _assignments(len(symbols)):
        point = dict(zip(symbols, values, strict=True))
        left, right = _value(found, point), _value(expected, point)
        if left is None or right is None:
            return None
        if all(value > 0 for value in values) or (left.is_real and right.is_real):
            same = _same(left, right, exact)
            if same is None:
                return None
            if not same:
                return False
            agreed = True
        if not symbols:
            break
    return agreed or None


def _assignments(count: int) -> Iterator[tuple[sympy.Number, ...]]:
    points = [sympy.Rational(point) for point in _POINTS]
    for shift in range(len(points)):
        sign = 1 if points[shift] > 0 else -1
        yield tuple(
            sign * abs(points[(shift + 2 * index) % len(points)] + sympy.Rational(index, 7)) for index in range(count)
        )


def _value(expression: sympy.Expr, point: dict[sympy.Symbol, sympy.Number]) -> sympy.Expr | None:
    try:
        value = expression.subs(point).doit()
        # Whole numbers are compared exactly, however large: 2^{200} + 2 is not 2^{200} - 2.
        value = value if value.is_Rational and not point else value.evalf(_DIGITS, maxn=2 * _DIGITS)
    except MemoryError:
        raise
    except Exception:  # sympy raises what it likes on expressions outside its domain
        return None
    return value if value.is_number and value.is_finite and not value.has(sympy.nan) else None


def _same(left: sympy.Expr, right: sympy.Expr, exact: bool) -> bool | None:
    if left.is_Rational and right.is_Rational:
        return bool(left == right)
    gap, scale = abs(left - right), max(abs(left), abs(right))
    if gap <= scale * _SAME:
        return True
    return False if exact or gap > scale * _DIFFERENT else None


def value(formula: str) -> Fraction | None:
    """The value of a formula without symbols; None when it has none."""
    expression = _parse(formula)
    if not isinstance(expression, sympy.Expr) or expression.free_symbols:
        return None
    number = _value(expression, {})
    return Fraction(str(sympy.Rational(number))) if number is not None and number.is_real else None
