"""Refuses formulas on which a computer algebra system could run without end or fill the memory.

A refused answer is correct only when it is written as the reference is.
"""

from __future__ import annotations

import re
from itertools import accumulate

from maspo_dist.reward.math.latex import closing_bracket

_MAX_CHARS = 1_000
_MAX_DEPTH = 25
_MAX_COMMANDS = 150
_MAX_DIGITS = 400
_MAX_EXPONENT = 5_000
_MAX_FACTORIAL = 500
_MAX_BINOMIAL = 5_000
_MAX_TERMS = 300

_NUMBERS = re.compile(r"\d+")
_FACTORIAL = re.compile(r"(\d+)\s?[)}\]]{0,3}\s?!")
_BINOMIAL = re.compile(r"\\binom|\\choose|_\{?\d+\}?\s?[CP]")
_BOUND = re.compile(r"\\(?:sum|prod)(?![A-Za-z])")
_REFUSED_COMMANDS = re.compile(
    r"\\(?:int|iint|iiint|oint|lim|def|newcommand|let|gdef|edef|input|include|write|loop|"
    r"gcd|lcm|bmod|pmod|det)(?![A-Za-z])"
)
#: d/dx, whose numerator may be long.
_DERIVATIVE = re.compile(r"\\frac\s?\{\s?d(?![A-Za-z]).*\}\s?\{\s?d\s?[A-Za-z\\]", re.DOTALL)
#: An exponent: a group, of which only the bracket is matched, or one token.
_POWER = re.compile(r"\^\s*(?:([{(])|-?(?:\d+|\\[A-Za-z]+(?:\s?\{[^{}]*\}){0,2}|.)|$)", re.DOTALL)
_FACTORIALS_IN_A_ROW = re.compile(r"!\s?!|!\s?[)}\]]{1,4}\s?!")


def refusal(text: str) -> str | None:
    """Why a normalised answer is not evaluated, in a few words; None when it may be."""
    if len(text) > _MAX_CHARS:
        return f"longer than {_MAX_CHARS} characters"
    if max(accumulate((sign in "{([") - (sign in "})]") for sign in text), default=0) > _MAX_DEPTH:
        return f"nested deeper than {_MAX_DEPTH}"
    if text.count("\\") + text.count("!") + text.count("--") > _MAX_COMMANDS:
        return "too many commands"
    if command := _REFUSED_COMMANDS.search(text):
        return f"{command.group()} is not evaluated"
    if "\\frac" in text and _DERIVATIVE.search(text):
        return "a derivative is not evaluated"
    numbers = _NUMBERS.findall(text)
    if any(len(digits) > _MAX_DIGITS for digits in numbers):
        return f"a number of more than {_MAX_DIGITS} digits"
    largest = max(map(int, numbers), default=0)
    if "!" in text and (
        _FACTORIALS_IN_A_ROW.search(text) or any(int(digits) > _MAX_FACTORIAL for digits in _FACTORIAL.findall(text))
    ):
        return "a factorial too large to evaluate"
    if "!" in text and "^" in text and largest > 20:
        return "a factorial with powers"
    if _BINOMIAL.search(text) and largest > _MAX_BINOMIAL:
        return "a binomial too large to evaluate"
    if _BOUND.search(text) and (largest > _MAX_TERMS or "\\infty" in text):
        return "a sum or product with too many terms"
    return _large_power(text)


def _large_power(text: str) -> str | None:
    """Exponents are bounded, and towers refused: what stands in an exponent has no further power of a number."""
    for match in _POWER.finditer(text):
        end = closing_bracket(text, match.end() - 1) or len(text) if match[1] else match.end()
        exponent, rest = text[match.start() + 1 : end], text[end:].lstrip()
        if any(len(digits) > 5 or int(digits) > _MAX_EXPONENT for digits in _NUMBERS.findall(exponent)):
            return "an exponent too large to evaluate"
        if "!" in exponent:
            return "a factorial in an exponent"
        inner = exponent.count("^") + rest.startswith("^")
        if inner and (inner > 1 or any(int(digits) > 3 for digits in _NUMBERS.findall(exponent))):
            return "a tower of powers"
    return None
