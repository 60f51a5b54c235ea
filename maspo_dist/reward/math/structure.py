"""The outer shape of an answer: lists, tuples, intervals, sets, unions, matrices, equations.

Shapes are compared part by part, so that each part can take the fast path and no part hides in another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Shape = Literal["list", "tuple", "set", "union", "matrix", "leaf"]

_OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_CLOSING = frozenset(_OPENING.values())
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_TEXT_JOINER = re.compile(
    r",?\s*(?:\\text\s?\{\s?,?\s?(?:and|or)\s?,?\s?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*,?"
)
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_SYMBOL = r"(?:\\?[A-Za-z]+'*(?:_\{?[A-Za-z0-9,]+\}?)?(?:\s?\([A-Za-z0-9,\s]{1,20}\))?)"
_LABEL = re.compile(rf"\s?(?:{_SYMBOL}|\(\s?{_SYMBOL}(?:\s?,\s?{_SYMBOL})*\s?\))\s?")
_BRACKETED = re.compile(r"(\\\{|[(\[])(.*?)(\\\}|[)\]])", re.DOTALL)
#: A letter that, indexed, names the solutions of an equation.
_UNKNOWN = re.compile(r"[i-z]|\\(?:lambda|theta|alpha|phi|omega)")
#: `n = 2,048` and `(1,000, 2,000)`, but neither `1, 000` nor an index.
_THOUSANDS = re.compile(r"(?<![\w.,^])(?<![_^]\{)[1-9]\d{0,2}(?:,\d{3})++(?!\d|,\S)")
_MAX_PARTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The outer shape and its items. `brackets` is the outer pair of a tuple, as written; a matrix has rows."""

    shape: Shape
    items: tuple[str, ...]
    brackets: str = ""


def outer_shape(text: str) -> Parts:
    """The outer shape of a normalised answer. `1 \\pm 2` is the list of 1 + 2 and 1 - 2, `(x, y) = (1, 2)` that of
    x = 1 and y = 2, `x \\in \\{1, 2\\}` the set of x = 1 and x = 2, and `x = 1, y = 2 or x = 2, y = 1` the list of
    (1, 2) and (2, 1).
    """
    parts = _shape_as_written(text)
    if parts.shape == "list" and (points := _points(parts.items)):
        return Parts(shape="list", items=points)
    if parts.shape == "leaf" and "\\in " in text:
        label, value = without_label(text)
        members = _shape_as_written(value)
        if label and members.shape == "set":
            return Parts(shape="set", items=tuple(f"{label} = {item}" for item in members.items))
    if parts.shape == "leaf" and text.startswith("(") and "=" in text:
        label, value = without_label(text)
        names, values = _items(label[1:-1]), _shape_as_written(value)
        if values.brackets == "()" and len(names) == len(values.items):
            pairs = zip(names, values.items, strict=True)
            return Parts(shape="list", items=tuple(f"{name} = {item}" for name, item in pairs))
    if "\\pm" not in text or parts.shape not in ("leaf", "list", "set"):
        return parts
    items = _without_plus_minus(parts.items)
    same = len(items) == len(parts.items)
    return parts if same else Parts(shape="list" if parts.shape == "leaf" else parts.shape, items=items)


def _shape_as_written(text: str) -> Parts:
    matrix = _MATRIX.fullmatch(text)
    if matrix and "\\begin" not in matrix[1]:
        return Parts(shape="matrix", items=tuple(row for row in re.split(r"\\\\", matrix[1].strip()) if row.strip()))
    if text.startswith("\\begin{cases}") and (values := _values_in_rows(text)):
        return Parts(shape="list", items=values)
    plain = _TEXT_JOINER.sub(",", text) if ("and" in text or "or" in text) else text
    commas, cups = _items(plain), _split(plain, "\\cup") if "\\cup" in plain else ()
    if len(commas) > 1:
        return Parts(shape="list", items=commas)
    if len(cups) > 1:
        return Parts(shape="union", items=cups)
    bracketed = _BRACKETED.fullmatch(plain) if commas else None
    if bracketed:
        opening, content, closing = bracketed.groups()
        items = _items(content.strip())
        if items and opening == "\\{" and closing == "\\}" and ":" not in content and "|" not in content:
            return Parts(shape="set", items=items)
        if len(items) > 1 and opening in "([":
            return Parts(shape="tuple", items=items, brackets=opening + closing)
    return Parts(shape="leaf", items=(text,))


def _values_in_rows(text: str) -> tuple[str, ...]:
    """The rows of a system such as x = 1, y = 2; none where a row gives no value, or two name the same unknown."""
    cases = _CASES.fullmatch(text)
    rows = [row.strip(" ,;.") for row in re.split(r"\\\\", cases[1])] if cases and "&" not in text else []
    rows = list(filter(None, rows))
    labels = [without_label(row)[0] for row in rows]
    return tuple(rows) if all(labels) and len(set(labels)) == len(rows) > 1 else ()


def without_thousands(text: str) -> str:
    """Without commas that may separate thousands: `n = 2,048` → `n = 2048`. `(2,048)` stays a point."""
    plain = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    is_one_value = plain != text and len(outer_shape(plain).items) == 1
    return text if is_one_value and len(_items(text)) == 1 else plain


def without_label(text: str) -> tuple[str, str]:
    """`x = 3` → ("x", "3"); ("", text) where no label stands in front."""
    head, sign, tail = text.partition("\\in ")
    if sign and _LABEL.fullmatch(head):
        return head.strip(), tail.strip()
    sides = _sides(text)
    if len(sides) >= 2 and _LABEL.fullmatch(sides[0]) and all(sides):
        return re.sub(r"[\s{}]", "", sides[0]), sides[-1]
    return "", text


def without_labels(items: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The values of items such as x = 2, y = -3: as written, and ordered by label. None where an item has no label."""
    labelled = [without_label(item) for item in items]
    if not all(label for label, _ in labelled):
        return None
    by_label = sorted(labelled, key=lambda pair: _rank(pair[0]))
    return tuple(value for _, value in labelled), tuple(value for _, value in by_label)


def _rank(label: str) -> str:
    """Orders labels by the alphabet, and indexes by their value: r, \\theta; x_2, x_{10}."""
    return re.sub(r"\d+", lambda number: number[0].zfill(9), label.replace("\\", ""))


def _points(items: tuple[str, ...]) -> tuple[str, ...]:
    """The points of items that name the same unknowns again and again: x = 1, y = 2, x = 2, y = 1."""
    labels = [without_label(item)[0] for item in items]
    size = len(set(labels))
    blocks = [slice(start, start + size) for start in range(0, len(items), size)]
    if not all(labels) or size == 1 or len(blocks) == 1 or any(set(labels[block]) != set(labels) for block in blocks):
        return ()
    return tuple(f"({', '.join(ordered[1])})" for block in blocks if (ordered := without_labels(items[block])))


def without_unknown(items: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The unknown whose solutions are listed, and these: `x = 2, x = -3`, `x_1 = 2, x_2 = -3`, `x = 2, -3`.

    ("", items) where labels name different things: x = 2, y = -3. So do indexed letters from a to h: a_1 = 2, a_2 = -3
    are terms.
    """
    labelled = [without_label(item) for item in items]
    labels = {label for label, _ in labelled if label}
    letters = {label.partition("_")[0] for label in labels}
    if len(letters) != 1 or (len(labels) > 1 and not all(map(_UNKNOWN.fullmatch, letters))):
        return "", items
    return letters.pop(), tuple(value for _, value in labelled)


def has_matching_brackets(text: str) -> bool:
    """Half-open intervals count as matching: `[0, 1)`."""
    return bool(_split(text)) or "\\begin" in text


def last_side(text: str) -> str:
    """What stands after the last equals sign."""
    return _sides(text)[-1]


def has_equals(text: str) -> bool:
    """Whether an equals sign stands outside all brackets: `\\sum_{k=0}` has none."""
    return len(_sides(text)) > 1


def _sides(text: str) -> tuple[str, ...]:
    return (_split(text, "=") if "=" in text else ()) or (text,)


def exact_side(text: str) -> str:
    """`\\sqrt{2} \\approx 1.41` → `\\sqrt{2}`; `x \\approx 11` → `11`."""
    before, sign, after = text.partition("\\approx")
    if not sign:
        return text
    label, value = without_label(before.strip())
    if not before.strip() or (not label and _LABEL.fullmatch(before)):
        return after.strip()
    return f"{label} = {value}" if label else value


def _without_plus_minus(items: tuple[str, ...]) -> tuple[str, ...]:
    """Items with more than one sign stay as they are."""
    return tuple(
        spread
        for item in items
        for spread in (
            (item.replace("\\pm", "+"), item.replace("\\pm", "-"))
            if item.count("\\pm") == 1 and "\\mp" not in item
            else (item,)
        )
    )


def _items(text: str) -> tuple[str, ...]:
    return tuple(filter(None, _split(text, ",", ";")))


def _split(text: str, *separators: str) -> tuple[str, ...]:
    """Parts between separators outside all brackets; none where brackets do not match or parts are too many."""
    parts: list[str] = []
    stack: list[str] = []
    start = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENING:
            stack.append(token)
        elif token in _CLOSING:
            if not stack or not _closes(stack.pop(), token):
                return ()
        elif not stack and token in separators:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return () if stack or len(parts) > _MAX_PARTS else tuple(parts)


def _closes(opening: str, closing: str) -> bool:
    # Half-open intervals pair ( with ] and [ with ).
    return _OPENING[opening] == closing or (opening in "([" and closing in ")]")
