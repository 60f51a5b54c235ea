"""Inequalities as intervals, ratios as terms: notations that mean a set or a proportion, read without algebra."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_SIGN = re.compile(r"<|>|\\leq(?![A-Za-z])|\\geq(?![A-Za-z])")
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?\w\}?)?|\\[a-z]+")
_FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
_RATIO = re.compile(r"\d{1,15}(?:\s?:\s?\d{1,15}){2,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """`variable` is "" for an interval that names none; bounds are formulas, as written."""

    variable: str
    low: str
    high: str
    brackets: str


def read_inequality(text: str) -> Interval | None:
    """`x > 3`, `3 < x`, `1 \\leq x < 2` and the like; None for anything else."""
    signs = [match.group() for match in _SIGN.finditer(text)]
    sides = [side.strip() for side in _SIGN.split(text)]
    if not 1 <= len(signs) <= 2 or "=" in text or not all(sides):
        return None
    if len(signs) == 1:
        if not _VARIABLE.fullmatch(sides[0]):
            sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
        if not _VARIABLE.fullmatch(sides[0]) or _VARIABLE.fullmatch(sides[1]):
            return None
        variable, bound = sides
        closed = signs[0].startswith("\\")
        if signs[0] in ("<", "\\leq"):
            return Interval(variable=variable, low="-\\infty", high=bound, brackets="(]" if closed else "()")
        return Interval(variable=variable, low=bound, high="\\infty", brackets="[)" if closed else "()")
    if signs[0] in (">", "\\geq"):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    if any(sign in (">", "\\geq") for sign in signs) or not _VARIABLE.fullmatch(sides[1]):
        return None
    brackets = ("[" if signs[0] == "\\leq" else "(") + ("]" if signs[1] == "\\leq" else ")")
    return Interval(variable=sides[1], low=sides[0], high=sides[2], brackets=brackets)


def read_ratio(text: str) -> tuple[int, ...] | None:
    """`4:6:10` as 2, 3, 5; None for anything else, two terms too, which are a fraction."""
    if not _RATIO.fullmatch(text):
        return None
    terms = [int(term) for term in text.split(":")]
    divisor = math.gcd(*terms) or 1
    return tuple(term // divisor for term in terms)
