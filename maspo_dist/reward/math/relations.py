"""Notations read without algebra: inequalities as intervals, ratios as terms, and parts that only one side writes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from maspo_dist.reward.math.structure import Parts, outer_shape

_SIGN = re.compile(r"<|>|\\leq(?![A-Za-z])|\\geq(?![A-Za-z])")
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?\w\}?)?|\\[a-z]+")
_FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
_TO = re.compile(r"\s?\\text\s?\{\s?to\s?\}\s?|(?<=\d) to (?=\d)")
_POINT = re.compile(r"[A-Z]'?\s?\(.*\)", re.DOTALL)
_MODULUS = re.compile(r"\s?\(?\s?(?:\\text\s?\{\s?\(?\s?)?\\?[pb]?mod(?![A-Za-z])\s?\}?\s?\{?\s?(\w{1,9})\s?\}?\s?\)?$")
#: `\text{5 km}`: a number and its unit, set as text together.
_QUANTITY = re.compile(r"^\\text\s?\{\s?([-+]?\d[\d,.]*(?: [A-Za-z ]{1,40})?)\s?\}$")
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


def read_intervals(parts: Parts) -> list[Interval] | None:
    """Intervals and inequalities, one or a union of them; None where there is anything else."""
    if parts.shape == "tuple" and len(parts.items) == 2 and parts.brackets in ("()", "[)", "(]", "[]"):
        return [Interval(variable="", low=parts.items[0], high=parts.items[1], brackets=parts.brackets)]
    if parts.shape not in ("leaf", "list", "union"):
        return None
    found = [_interval(item) for item in parts.items]
    return [interval for interval in found if interval] if all(found) else None


def _interval(item: str) -> Interval | None:
    inequality = read_inequality(item)
    if inequality:
        return inequality
    parts = outer_shape(item)
    ranges = read_intervals(parts) if parts.shape == "tuple" else None
    return ranges[0] if ranges else None


def name_a_variable(intervals: list[Interval]) -> bool:
    return any(interval.variable for interval in intervals)


def align_notation(found: str, expected: str) -> tuple[str, str]:
    """Both without notation that only one has: a point's name, a modulus, `to` for a colon, text around a number."""
    if ":" in expected and _TO.search(found):
        found = _TO.sub(":", found)
    if expected.startswith("(") and _POINT.fullmatch(found):
        found = found[1:].strip()
    elif found.startswith("(") and _POINT.fullmatch(expected):
        expected = expected[1:].strip()
    modulus, wanted_modulus = _MODULUS.search(found), _MODULUS.search(expected)
    if not modulus or not wanted_modulus or modulus[1] == wanted_modulus[1]:
        found, expected = _MODULUS.sub("", found).strip() or found, _MODULUS.sub("", expected).strip() or expected
    return _QUANTITY.sub(r"\1", found), _QUANTITY.sub(r"\1", expected)
