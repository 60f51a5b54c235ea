"""Whether two answers are the same: literal, then numeric, then shape by shape, then by algebra.

The conventions, where people differ:
    a label that only one side has is ignored          x = 3 is 3
    bare lists and sets have no order, tuples do         {1,2} is 2,1; (1,2) is not (2,1)
    a list is right only as a whole                      3, 4, 5 is not 4
    the exact part stands before ≈                       \\sqrt{2} ≈ 1.41 is \\sqrt{2}
    the letter case of words is ignored                 evelyn is Evelyn
    an answer too large to evaluate must be written as the reference is
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from maspo_dist.reward.math.evaluate import are_different, is_value, same_equation
from maspo_dist.reward.math.guard import refusal
from maspo_dist.reward.math.latex import compact, normalise
from maspo_dist.reward.math.numbers import Number, equal_numbers, parse_number
from maspo_dist.reward.math.relations import Interval, align_notation, name_a_variable, read_intervals, read_ratio
from maspo_dist.reward.math.structure import (
    Parts,
    exact_side,
    expand_plus_minus,
    has_equals,
    last_side,
    outer_shape,
    without_label,
)

_MAX_UNORDERED = 12
_MAX_NESTING = 6
#: Relative gaps at which values are different beyond doubt: of exact forms, and where one is rounded.
_EXACT, _ROUNDED = 1e-6, 1e-3
#: What binary floats lose in a formula with decimals.
_FLOAT_NOISE = Fraction(1, 10**12)
_MAX_TIMES_LONGER = 4
_CHOICE = re.compile(r"\(?([A-J])\)?")
_CHOSEN = re.compile(r"\(?([A-J])(?:\)|[.:]|\)?\s|\)?\\|$).{0,200}", re.DOTALL)
_LABELLED_CHOICE = re.compile(r"\(([A-J])\)\s*\S")
_COMMAND_OR_SIGN = re.compile(r"\\[A-Za-z]+|[=^_+*/<>|&]")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"\(?\s?(\d+(?:\.\d+)?)\s?\^\s?\\circ\s?\)?")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")
_COMMA_DECIMAL = re.compile(r"[+-]?\d+,\d{1,2}")
_TEXT_BEHIND = re.compile(
    r"(?:\s?\\text\s?\{[^{}]{0,100}\}(?:\s?\^\s?\{?\d\}?)?|\s?\^\\circ|"
    r"(?:\s(?:square|cubic|sq\.?|units?|mm|cm|km|met(?:er|re)s?|feet|ft|inches|degrees|dollars|cents|"
    r"hours?|minutes?|seconds?|days?|years?|radians)(?:\^\d)?){1,3})$"
)
_TEXT_BEFORE = re.compile(r"^\\text\s?\{[^{}]{3,100}\}\s?")
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(r"(?:\\text\s?\{)?\s?\b(thousand|million|billion|trillion)\b\s?\}?", re.IGNORECASE)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_MORE_CHOICES = re.compile(r"(?:\band|\bor|[,/;&+])\s?\(?[A-J](?![A-Za-z])|^[)\s]{0,3}\(?[A-J](?![A-Za-z'])")
_HALF_DAY = re.compile(r"(?:[ap]\.?m\.?)$", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:an?|the)(?= )")
_DOES_NOT_EXIST = frozenset({"dne", "doesnotexist"})
_NO_SOLUTION = frozenset({"nosolution", "nosolutions", "norealsolution", "norealsolutions", "emptyset", "none"})


@dataclass(frozen=True, slots=True)
class Algebra:
    """The slow questions, put to a computer algebra system: the boundary to sympy.

    equivalent(answer, reference)   whether two formulas mean the same
    value(formula)                  its value to 40 digits, None when it has symbols or none
    """

    equivalent: Callable[[str, str], bool]
    value: Callable[[str], Fraction | None]


def same_answer(answer: str, reference: str, algebra: Algebra) -> tuple[bool, str]:
    """The verdict on two answers as written, and why in a few words where it is not plain."""
    if not answer.strip():
        return False, "empty answer"
    if len(answer) > _MAX_TIMES_LONGER * (len(reference) + 1_000):
        return False, "much longer than the reference"
    comparison = _Comparison(algebra)
    found, expected = normalise(answer), normalise(reference)
    correct = comparison.same(found, expected, 0)
    return correct, "" if correct else comparison.reason


class _Comparison:
    """One comparison; `reason` keeps the last thing that was refused."""

    def __init__(self, algebra: Algebra) -> None:
        self._algebra = algebra
        self.reason = ""

    def same(self, found: str, expected: str, nesting: int) -> bool:
        if compact(found) == compact(expected) and found:
            return True
        if not found or not expected or nesting > _MAX_NESTING:
            return False
        found, expected = align_notation(exact_side(found), exact_side(expected))
        number, wanted = parse_number(found), parse_number(expected)
        if wanted and wanted.figures and _COMMA_DECIMAL.fullmatch(found):
            number = parse_number(found.replace(",", "."))
        if number and wanted:
            return equal_numbers(number, wanted) or self._same_when_spelled_out(found, expected)
        ratio, wanted_ratio = read_ratio(found), read_ratio(expected)
        if ratio or wanted_ratio:
            return ratio == wanted_ratio
        words = _same_words(found, expected)
        if words is not None:
            return words
        return self._same_shape(found, expected, number, wanted, nesting)

    def _same_shape(
        self, found: str, expected: str, number: Number | None, wanted: Number | None, nesting: int
    ) -> bool:
        left, right = _with_signs_spread(outer_shape(found)), _with_signs_spread(outer_shape(expected))
        ranges, wanted_ranges = read_intervals(left), read_intervals(right)
        if ranges and wanted_ranges and (name_a_variable(ranges) or name_a_variable(wanted_ranges)):
            return self._same_intervals(ranges, wanted_ranges, nesting)
        if left.shape == right.shape == "leaf":
            return self._same_leaf(found, expected, number, wanted, nesting)
        shapes = {left.shape, right.shape}
        if shapes in ({"list"}, {"set"}, {"union"}, {"list", "set"}):
            ordered, as_sets = _labelled(left) != _labelled(right), shapes == {"set"}
            return self._same_items(left.items, right.items, nesting, ordered=ordered, as_sets=as_sets)
        if shapes == {"matrix"}:
            return self._same_rows(left.items, right.items, nesting)
        if shapes == {"tuple"}:
            return left.brackets == right.brackets and self._in_order(left.items, right.items, nesting)
        if shapes == {"tuple", "list"}:
            return self._in_order(left.items, right.items, nesting)
        if shapes == {"tuple", "matrix"}:
            rows, wanted_rows = _rows(left), _rows(right)
            if rows and wanted_rows:
                return self._same_rows(rows, wanted_rows, nesting)
            entries = _entries(left)
            return bool(entries) and self._in_order(entries, _entries(right), nesting)
        if shapes == {"set", "leaf"} and len(left.items) == len(right.items) == 1:
            return self.same(left.items[0], right.items[0], nesting + 1)
        if "leaf" in shapes:
            leaf = found if left.shape == "leaf" else expected
            if is_value(leaf):
                # One value is neither a point, an interval, a matrix nor several values.
                return False
            return self._same_leaf(found, expected, number, wanted, nesting, one_value="list" not in shapes)
        return False

    def _same_when_spelled_out(self, found: str, expected: str) -> bool:
        """`5 million` as 5000000."""
        if not _SCALE.search(found) or _SCALE.search(expected):
            return False
        number, wanted = parse_number(_SCALE.sub(_as_power, found)), parse_number(expected)
        return bool(number and wanted and number.value == wanted.value)

    def _same_intervals(self, found: list[Interval], expected: list[Interval], nesting: int) -> bool:
        """Of unions, in any order. A variable that only one side names is a label."""
        left = list(expected)
        for interval in found:
            twin = next((other for other in left if self._same_interval(interval, other, nesting)), None)
            if twin is None:
                return False
            left.remove(twin)
        return not left

    def _same_interval(self, found: Interval, expected: Interval, nesting: int) -> bool:
        return (
            found.brackets == expected.brackets
            and (not found.variable or not expected.variable or found.variable == expected.variable)
            and self._in_order((found.low, found.high), (expected.low, expected.high), nesting)
        )

    def _same_leaf(
        self,
        found: str,
        expected: str,
        number: Number | None,
        wanted: Number | None,
        nesting: int,
        *,
        one_value: bool = True,
    ) -> bool:
        label, value = without_label(found)
        wanted_label, wanted_value = without_label(expected)
        if label and (wanted_label == label or (not wanted_label and not has_equals(expected))):
            return self.same(value, wanted_value, nesting + 1)
        if wanted_label and not label and not has_equals(found):
            return self.same(found, wanted_value, nesting + 1)
        if has_equals(found) and not has_equals(expected):
            if wanted and wanted.value == 0 and _is_equation(found):
                return False
            return self.same(last_side(found), expected, nesting + 1)
        plain, wanted_plain = _without_text(found), _without_text(expected)
        if (plain, wanted_plain) != (found, expected):
            return self.same(plain, wanted_plain, nesting + 1)
        # Algebra takes 4, 4 for the set of 4; one value is never a list.
        return one_value and self._by_algebra(found, expected, number, wanted)

    def _by_algebra(self, found: str, expected: str, number: Number | None, wanted: Number | None) -> bool:
        rounded = bool((number and number.figures) or (wanted and wanted.figures))
        if are_different(found, expected, _ROUNDED if rounded else _EXACT):
            return False
        if has_equals(found) and has_equals(expected):
            verdict = same_equation(found, expected)
            if verdict is not None:
                return verdict
        if "\\dots" in found or "\\dots" in expected:
            self.reason = "dots are compared as written"
            return False
        for text, side in ((found, "answer"), (expected, "reference")):
            refused = refusal(text)
            if refused:
                self.reason = f"{side} not evaluated: {refused}"
                return False
        decimal = number if number and number.figures else wanted if wanted and wanted.figures else None
        if decimal and not (number and wanted):
            value = self._algebra.value(_in_radians(expected if decimal is number else found))
            if value is None:
                return False
            if abs(value - decimal.value) <= abs(decimal.value) * _FLOAT_NOISE:
                return True
            exact = Number(value=value)
            return equal_numbers(number or exact, wanted or exact)
        return self._algebra.equivalent(_in_radians(found), _in_radians(expected))

    def _in_order(self, found: tuple[str, ...], expected: tuple[str, ...], nesting: int) -> bool:
        return len(found) == len(expected) and all(
            self.same(left, right, nesting + 1) for left, right in zip(found, expected, strict=True)
        )

    def _same_rows(self, found: tuple[str, ...], expected: tuple[str, ...], nesting: int) -> bool:
        rows = [(left.split("&"), right.split("&")) for left, right in zip(found, expected, strict=False)]
        return len(found) == len(expected) and all(
            self._in_order(tuple(map(str.strip, left)), tuple(map(str.strip, right)), nesting) for left, right in rows
        )

    def _same_items(
        self, found: tuple[str, ...], expected: tuple[str, ...], nesting: int, *, ordered: bool, as_sets: bool
    ) -> bool:
        if ordered:
            return self._in_order(found, expected, nesting)
        if as_sets:
            found, expected = _distinct(found), _distinct(expected)
        if len(found) != len(expected):
            return False
        left = list(expected)
        rest = []
        for item in found:
            twin = next((other for other in left if compact(other) == compact(item)), None)
            if twin is None:
                rest.append(item)
            else:
                left.remove(twin)
        if len(rest) > _MAX_UNORDERED:
            self.reason = "too many elements that differ"
            return False
        for item in rest:
            twin = next((other for other in left if self.same(item, other, nesting + 1)), None)
            if twin is None:
                return False
            left.remove(twin)
        return True


def _is_equation(text: str) -> bool:
    """`x - 5 = 0` is one; `\\cos 90^\\circ = 0` has a value, and `f(1) = 0` names it."""
    first = _COMMAND.sub(" ", text.partition("=")[0])
    return bool(re.search(r"\d", first) and re.search(r"[A-Za-z]", first))


def _as_power(scale: re.Match[str]) -> str:
    return rf"\times 10^{{{_POWERS[scale[1].lower()]}}}"


def _rows(parts: Parts) -> tuple[str, ...]:
    """Of a matrix, which may be written [[1, 2], [3, 4]]; none for anything else."""
    if parts.shape == "matrix":
        return parts.items
    inner = [outer_shape(item) for item in parts.items]
    nested = all(row.shape == "tuple" and row.brackets == "[]" for row in inner)
    return tuple("&".join(row.items) for row in inner) if nested and parts.brackets == "[]" else ()


def _entries(parts: Parts) -> tuple[str, ...]:
    """Of a tuple, or of a matrix that is one column or one row; a wider matrix is no point."""
    if parts.shape != "matrix":
        return parts.items if parts.brackets == "()" else ()
    rows = [row.split("&") for row in parts.items]
    if len(rows) == 1:
        return tuple(map(str.strip, rows[0]))
    return tuple(row[0].strip() for row in rows) if all(len(row) == 1 for row in rows) else ()


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({compact(item): item for item in items}.values())


def _in_radians(text: str) -> str:
    """`\\sin 30^\\circ` → `\\sin(30\\pi/180)`."""
    if "\\circ" not in text or not _TRIGONOMETRIC.search(text):
        return text
    return _DEGREES.sub(r"(\1\\pi/180)", text)


def _with_signs_spread(parts: Parts) -> Parts:
    if parts.shape not in ("leaf", "list", "set"):
        return parts
    items = expand_plus_minus(parts.items)
    if len(items) == len(parts.items):
        return parts
    return Parts(shape="list" if parts.shape == "leaf" else parts.shape, items=items)


def _labelled(parts: Parts) -> bool:
    return any(has_equals(item) for item in parts.items)


def _without_text(text: str) -> str:
    """Without a unit behind or a phrase before."""
    plain = text if _TRIGONOMETRIC.search(text) else _TEXT_BEHIND.sub("", text).strip()
    if plain and plain != text:
        return plain
    plain = _TEXT_BEFORE.sub("", text).strip()
    return plain or text


def _same_words(found: str, expected: str) -> bool | None:
    """Decides where the reference is a choice letter, words or a time of day; None where it is not."""
    wanted = _words(expected)
    choice = _CHOICE.fullmatch(wanted) if wanted else None
    if choice and wanted is not None:
        chosen = _CHOSEN.fullmatch(re.sub(r"\\text|[{}$*]", "", found).strip())
        if chosen:
            rest = chosen.string[chosen.end(1) :]
            return chosen[1] == choice[1] and not _MORE_CHOICES.search(rest)
        return None if "\\text" not in expected else False
    letter = _CHOICE.fullmatch(found)
    labelled = _LABELLED_CHOICE.match(re.sub(r"\\text|[{}$*]", "", expected).strip()) if letter else None
    if letter and labelled:
        return letter[1] == labelled[1]
    if _CLOCK.fullmatch(compact(expected)):
        # Where the reference leaves the half of the day open, so may the answer.
        plain = re.sub(r"[{}]", "", compact(found))
        return _HALF_DAY.sub("", plain).lstrip("0") == compact(expected).lstrip("0")
    plain, wanted_plain = _flat(found), _flat(expected)
    for group in (_NO_SOLUTION, _DOES_NOT_EXIST):
        if wanted_plain in group:
            return plain in group
    if plain == wanted_plain and re.fullmatch(r"[a-z]{3,}", plain):
        return True
    if wanted is None or not re.search(r"[a-z]{4,}" if "\\text" not in expected else r"[a-z]{2,}", wanted_plain):
        return None
    if re.match(r"[-+]?[\d.(\[]", wanted) and not re.search(r"\d:\d", wanted):
        return None
    return plain == wanted_plain or _flat(_TEXT_BEFORE.sub("", found)) == wanted_plain


def _words(text: str) -> str | None:
    """The text of an answer made of words; None when there is mathematics in it."""
    plain = re.sub(r"\\text\s?\{([^{}]*)\}", r"\1", text)
    return None if _COMMAND_OR_SIGN.search(plain) else plain.strip()


def _flat(text: str) -> str:
    text = re.sub(r"\\text|[{}.$\\*\"']", "", text).strip().casefold()
    return re.sub(r"\s", "", _ARTICLE.sub("", text))
