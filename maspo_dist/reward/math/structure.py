"""The outer shape of an answer: lists, tuples, intervals, sets, unions, matrices, equations.

Shapes are compared part by part, so that each part can take the fast path and no part hides in another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Shape = Literal["list", "tuple", "set", "union", "matrix", "leaf"]

_OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_CLOSING = frozenset(_OPENING.values()) | {"]", ")"}
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_JOINERS = frozenset({",", ";"})
_TEXT_JOINER = re.compile(
    r",?\s*(?:\\text\s?\{\s?,?\s?(?:and|or)\s?,?\s?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*,?"
)
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_SYMBOL = r"(?:\\?[A-Za-z]+'*(?:_\{?[A-Za-z0-9,]+\}?)?(?:\s?\([A-Za-z0-9,\s]{1,20}\))?)"
_LABEL = re.compile(rf"\s?(?:{_SYMBOL}|\(\s?{_SYMBOL}(?:\s?,\s?{_SYMBOL})*\s?\))\s?")
_BRACE_OR_EQUALS = re.compile(r"(?<!\\)[{}]|(?<![<>!=])=(?!=)")
_MAX_PARTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The outer shape and its items. `brackets` is the outer pair of a tuple, as written; a matrix has rows."""

    shape: Shape
    items: tuple[str, ...]
    brackets: str = ""


def outer_shape(text: str) -> Parts:
    """The outer shape of a normalised answer."""
    matrix = _MATRIX.fullmatch(text)
    if matrix and "\\begin" not in matrix[1]:
        return Parts(shape="matrix", items=tuple(row for row in re.split(r"\\\\", matrix[1].strip()) if row.strip()))
    plain = _TEXT_JOINER.sub(",", text) if ("and" in text or "or" in text) else text
    split = _split(plain)
    if split is None:
        return Parts(shape="leaf", items=(text,))
    commas, cups = split
    if len(commas) > 1:
        return Parts(shape="list", items=commas)
    if len(cups) > 1:
        return Parts(shape="union", items=cups)
    inside = _inside(plain)
    if inside:
        opening, content, closing = inside
        inner = _split(content)
        if inner is not None and opening == "\\{" and closing == "\\}" and ":" not in content and "|" not in content:
            return Parts(shape="set", items=inner[0])
        if inner is not None and len(inner[0]) > 1 and opening in "([":
            return Parts(shape="tuple", items=inner[0], brackets=opening + closing)
    return Parts(shape="leaf", items=(text,))


def without_label(text: str) -> tuple[str, str]:
    """`x = 3` → ("x", "3"); ("", text) where nothing that only names the value stands in front."""
    head, sign, tail = text.partition("\\in ")
    if sign and _LABEL.fullmatch(head):
        return head.strip(), tail.strip()
    sides = _sides(text)
    if len(sides) >= 2 and _LABEL.fullmatch(sides[0]) and all(sides):
        return re.sub(r"[\s{}]", "", sides[0]), sides[-1]
    return "", text


def last_side(text: str) -> str:
    """What stands after the last equals sign."""
    return _sides(text)[-1]


def has_equals(text: str) -> bool:
    """Whether an equals sign stands outside all brackets: `\\sum_{k=0}` has none."""
    return len(_sides(text)) > 1


def _sides(text: str) -> list[str]:
    if "=" not in text:
        return [text]
    sides = []
    start = depth = 0
    for match in _BRACE_OR_EQUALS.finditer(text):
        token = match.group()
        if token == "=" and depth <= 0:
            sides.append(text[start : match.start()].strip())
            start = match.end()
        elif token != "=":
            depth += 1 if token == "{" else -1
    return [*sides, text[start:].strip()]


def exact_side(text: str) -> str:
    """`\\sqrt{2} \\approx 1.41` → `\\sqrt{2}`; `x \\approx 11` → `11`."""
    before, sign, after = text.partition("\\approx")
    if not sign:
        return text
    label, value = without_label(before.strip())
    if not before.strip() or (not label and _LABEL.fullmatch(before)):
        return after.strip()
    return f"{label} = {value}" if label else value


def expand_plus_minus(items: tuple[str, ...]) -> tuple[str, ...]:
    """`1 \\pm 2` → `1 + 2`, `1 - 2`; items with more than one sign stay as they are."""
    spread: list[str] = []
    for item in items:
        if item.count("\\pm") == 1 and "\\mp" not in item:
            spread += [item.replace("\\pm", "+"), item.replace("\\pm", "-")]
        else:
            spread.append(item)
    return tuple(spread)


def _split(text: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Parts between top-level commas, and between top-level \\cup; None where brackets do not match."""
    commas: list[str] = []
    cups: list[str] = []
    comma_start = cup_start = 0
    stack: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENING:
            stack.append(token)
        elif token in _CLOSING:
            if not stack or not _closes(stack.pop(), token):
                return None
        elif not stack and token in _JOINERS:
            commas.append(text[comma_start : match.start()])
            comma_start = match.end()
        elif not stack and token == "\\cup":
            cups.append(text[cup_start : match.start()])
            cup_start = match.end()
    if stack:
        return None
    commas.append(text[comma_start:])
    cups.append(text[cup_start:])
    if max(len(commas), len(cups)) > _MAX_PARTS:
        return None
    kept = tuple(part.strip() for part in commas if part.strip())
    return kept, tuple(part.strip() for part in cups)


def _closes(opening: str, closing: str) -> bool:
    # Half-open intervals pair ( with ] and [ with ).
    half_open = opening in "([" and closing in ")]"
    return _OPENING[opening] == closing or half_open


def _inside(text: str) -> tuple[str, str, str] | None:
    """The outer brackets and what they hold, when they hold the whole text."""
    tokens = [match.group() for match in _TOKEN.finditer(text)]
    if len(tokens) < 2 or tokens[0] not in _OPENING or tokens[-1] not in _CLOSING:
        return None
    depth = 0
    for index, token in enumerate(tokens):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and index < len(tokens) - 1:
            return None
    return tokens[0], "".join(tokens[1:-1]).strip(), tokens[-1]
