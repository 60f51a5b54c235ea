"""Refuses formulas on which a computer algebra system could run without end or fill the memory.

A refused answer is correct only when it is written as the reference is.
"""

from __future__ import annotations

import re

_MAX_CHARS = 1_000
_MAX_DEPTH = 25
_MAX_COMMANDS = 150
_MAX_DIGITS = 400
_MAX_EXPONENT = 5_000
_MAX_FACTORIAL = 500
_MAX_BINOMIAL = 5_000
_MAX_TERMS = 300

_NUMBERS = re.compile(r"\d+")
_EXPONENT_START = re.compile(r"\^")
_FACTORIAL = re.compile(r"(\d+)\s?[)}\]]{0,3}\s?!")
_BINOMIAL = re.compile(r"\\binom|\\choose|_\{?\d+\}?\s?[CP]")
_BOUND = re.compile(r"\\(?:sum|prod)(?![A-Za-z])")
_REFUSED_COMMANDS = re.compile(
    r"\\(?:int|iint|iiint|oint|lim|def|newcommand|let|gdef|edef|input|include|write|loop|"
    r"frac\s?\{\s?d|gcd|lcm|bmod|pmod|det)(?![A-Za-z])"
)
_FACTORIALS_IN_A_ROW = re.compile(r"!\s?!|!\s?[)}\]]{1,4}\s?!")


def refusal(text: str) -> str | None:
    """Why a normalised answer is not evaluated, in a few words; None when it may be."""
    if len(text) > _MAX_CHARS:
        return f"longer than {_MAX_CHARS} characters"
    if _depth(text) > _MAX_DEPTH:
        return f"nested deeper than {_MAX_DEPTH}"
    if text.count("\\") + text.count("!") + text.count("--") > _MAX_COMMANDS:
        return "too many commands"
    command = _REFUSED_COMMANDS.search(text)
    if command:
        return f"{command.group()} is not evaluated"
    numbers = _NUMBERS.findall(text)
    if any(len(digits) > _MAX_DIGITS for digits in numbers):
        return f"a number of more than {_MAX_DIGITS} digits"
    largest = max(map(int, numbers), default=0)
    if "!" in text and (_FACTORIALS_IN_A_ROW.search(text) or _large(_FACTORIAL, text, _MAX_FACTORIAL)):
        return "a factorial too large to evaluate"
    if "!" in text and "^" in text and largest > 20:
        return "a factorial with powers"
    if _BINOMIAL.search(text) and largest > _MAX_BINOMIAL:
        return "a binomial too large to evaluate"
    if _BOUND.search(text) and (largest > _MAX_TERMS or "\\infty" in text):
        return "a sum or product with too many terms"
    return _large_power(text)


def _large(pattern: re.Pattern[str], text: str, limit: int) -> bool:
    return any(int(digits) > limit for digits in pattern.findall(text))


def _large_power(text: str) -> str | None:
    """Exponents are bounded, and towers refused: what stands in an exponent has no further power of a number."""
    for match in _EXPONENT_START.finditer(text):
        exponent = _argument(text, match.end())
        if any(len(digits) > 5 or int(digits) > _MAX_EXPONENT for digits in _NUMBERS.findall(exponent)):
            return "an exponent too large to evaluate"
        if "!" in exponent:
            return "a factorial in an exponent"
        rest = text[match.end() + len(exponent) :].lstrip()
        inner = exponent.count("^") + rest.startswith("^")
        if inner and (inner > 1 or any(int(digits) > 3 for digits in _NUMBERS.findall(exponent))):
            return "a tower of powers"
    return None


def _argument(text: str, start: int) -> str:
    """The exponent that begins at `start`: a braced or bracketed group, or one token."""
    rest = text[start:]
    position = len(rest) - len(rest.lstrip())
    if position >= len(rest):
        return ""
    closing = {"{": "}", "(": ")"}.get(rest[position])
    if closing is None:
        token = re.match(r"\s*-?(?:\d+|\\[A-Za-z]+(?:\s?\{[^{}]*\}){0,2}|.)", rest, re.DOTALL)
        return token.group() if token else ""
    depth = 0
    for index in range(position, len(rest)):
        depth += (rest[index] == rest[position]) - (rest[index] == closing)
        if depth == 0:
            return rest[: index + 1]
    return rest


def _depth(text: str) -> int:
    depth = deepest = 0
    for sign in text:
        if sign in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "})]":
            depth -= 1
    return deepest
