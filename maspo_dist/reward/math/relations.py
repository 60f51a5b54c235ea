"""Notations read without algebra: inequalities as intervals, ratios as terms, and parts that only one side writes."""

from __future__ import annotations

import math
import re

from maspo_dist.reward.math.structure import Parts, outer_shape

_SIGN = re.compile(r"<|>|\\leq(?![A-Za-z])|\\geq(?![A-Za-z])")
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?\w\}?)?|\\[a-z]+")
_FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
_TO = re.compile(r"\s?\\text\s?\{\s?to\s?\}\s?|(?<=\d) to (?=\d)")
_POINT = re.compile(r"[A-Z]'?\s?\(.*\)", re.DOTALL)
_MODULUS = re.compile(r"\s?\(?\s?(?:\\text\s?\{\s?\(?\s?)?\\?[pb]?mod(?![A-Za-z])\s?\}?\s?\{?\s?(\w{1,9})\s?\}?\s?\)?$")
_NUMBER = r"[-+]?\d[\d,.]*"
_ITEM = r"[-+]?\d+(?:\.\d+)?"
_CHOICE = r"\(?[A-J]\)?"
_AND = r"(?:\s?,\s?(?:and |or )?| and | or )"
#: Set as text though it is no word: 5 km, 50\%, \$3.50, 3:4, 6 and 8, A, C, May 5. A power may stand behind a unit.
_SET_AS_TEXT = re.compile(
    rf"^\\text\s?\{{\s?({_ITEM}(?:{_AND}{_ITEM})+|{_NUMBER}\s?\\?%|\\?\$\s?{_NUMBER}|\d+(?:\s?:\s?\d+)+|"
    rf"{_CHOICE}(?:{_AND}{_CHOICE})+|[A-Z][a-z]{{2,12}} \d{{1,4}}|{_NUMBER}(?: [A-Za-z ]{{1,40}})?)\s?\}}$"
)
_UNIT_WITH_POWER = re.compile(rf"^\\text\s?\{{\s?({_NUMBER})( [A-Za-z]{{1,20}})\s?\}}(?=\s?\^\s?\{{?[23]\}}?$)")
#: `\{x \mid x > 3\}`; a comma in it would join conditions.
_SET_BUILDER = re.compile(r"\\\{\s?([A-Za-z])\s?(?:\\in\s?\\mathbb\{R\}\s?)?[|:]\s?([^,]{1,200})\\\}")
_RATIO = re.compile(r"\d{1,15}(?:\s?:\s?\d{1,15}){2,}")


def read_inequality(text: str) -> tuple[str, str] | None:
    """The variable and its interval, as written, of `x > 3`, `3 < x`, `1 \\leq x < 2` and the like; else None."""
    signs = _SIGN.findall(text)
    sides = [side.strip() for side in _SIGN.split(text)]
    if "=" in text or not all(sides) or not 1 <= len(signs) <= 2:
        return None
    if len(signs) == 1:
        if not _VARIABLE.fullmatch(sides[0]):
            sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
        if _VARIABLE.fullmatch(sides[1]):
            return None
        is_below = signs[0] in ("<", "\\leq")
        sides, signs = (["-\\infty", *sides], ["<", *signs]) if is_below else (["\\infty", *sides], [">", *signs])
    if signs[0] in (">", "\\geq"):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    low, variable, high = sides
    if ">" in signs or "\\geq" in signs or not _VARIABLE.fullmatch(variable):
        return None
    opening, closing = "[" if signs[0] == "\\leq" else "(", "]" if signs[1] == "\\leq" else ")"
    return variable, f"{opening}{low},{high}{closing}"


def read_ratio(text: str) -> tuple[int, ...] | None:
    """`4:6:10` as 2, 3, 5; None for anything else, two terms too, which are a fraction."""
    if not _RATIO.fullmatch(text):
        return None
    terms = [int(term) for term in text.split(":")]
    divisor = math.gcd(*terms) or 1
    return tuple(term // divisor for term in terms)


def read_intervals(parts: Parts) -> tuple[str, tuple[str, ...]] | None:
    """The variable, "" for none, and the intervals of a union of intervals and inequalities; None for anything else."""
    if parts.shape == "tuple" and len(parts.items) == 2:
        return "", (f"{parts.brackets[0]}{','.join(parts.items)}{parts.brackets[1]}",)
    if parts.shape not in ("leaf", "list", "union"):
        return None
    found = [read_inequality(item) or ("", item) for item in parts.items]
    variables = {variable for variable, _ in found if variable}
    if len(variables) > 1 or any(not variable and outer_shape(item).shape != "tuple" for variable, item in found):
        return None
    return "".join(variables), tuple(item for _, item in found)


def align_notation(found: str, expected: str) -> tuple[str, str]:
    """Both without notation that may differ: a point's name, a modulus, `to` for a colon, text around numbers, a set
    for an interval."""
    if ":" in expected and _TO.search(found):
        found = _TO.sub(":", found)
    if expected.startswith("(") and _POINT.fullmatch(found):
        found = found[1:].strip()
    elif found.startswith("(") and _POINT.fullmatch(expected):
        expected = expected[1:].strip()
    modulus, wanted_modulus = _MODULUS.search(found), _MODULUS.search(expected)
    if not modulus or not wanted_modulus or modulus[1] == wanted_modulus[1]:
        found, expected = _MODULUS.sub("", found).strip() or found, _MODULUS.sub("", expected).strip() or expected
    return _plain_notation(found), _plain_notation(expected)


def _plain_notation(text: str) -> str:
    if text.startswith("\\text"):
        return _SET_AS_TEXT.sub(r"\1", _UNIT_WITH_POWER.sub(r"\1\\text{\2}", text))
    described = _SET_BUILDER.fullmatch(text) if text.startswith("\\{") else None
    ranges = read_intervals(outer_shape(described[2].strip())) if described and " and " not in text else None
    return " \\cup ".join(ranges[1]) if described and ranges and ranges[0] == described[1] else text
