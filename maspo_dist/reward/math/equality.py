"""Whether two answers are the same: literal, then numeric, then shape by shape, then by algebra.

The conventions, where people differ:
    a label that only one side has is ignored          x = 3 is 3
    bare lists and sets have no order, tuples do         {1,2} is 2,1; (1,2) is not (2,1)
    solutions of one unknown have no order              x_1 = 2, x_2 = 3 is 3, 2
    values of several unknowns are ordered by label     y = 1, x = 2 is (2, 1)
    a list is right only as a whole                      3, 4, 5 is not 4
    the exact part stands before ≈                       \\sqrt{2} ≈ 1.41 is \\sqrt{2}
    the letter case of words is ignored                 evelyn is Evelyn
    digits in threes are one number, where one is asked x = 1,200 is 1200; 1,200 is 1, 200 too
    an answer too large to evaluate must be written as the reference is
"""

from __future__ import annotations

import importlib
import re
from fractions import Fraction
from functools import lru_cache
from types import ModuleType

from maspo_dist.reward.math.evaluate import are_different, is_value
from maspo_dist.reward.math.guard import refusal
from maspo_dist.reward.math.latex import compact, normalise
from maspo_dist.reward.math.numbers import Number, equal_numbers, parse_number
from maspo_dist.reward.math.relations import align_notation, read_intervals, read_ratio
from maspo_dist.reward.math.structure import (
    Parts,
    exact_side,
    has_equals,
    last_side,
    outer_shape,
    without_label,
    without_labels,
    without_thousands,
    without_unknown,
)

#: Comparisons that a process remembers: responses of a group often share their answer.
_REMEMBERED = 8_192
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
#: Of a name, f' and A'; 5' is a length or an angle. The algebra does not see it.
_PRIME = re.compile(r"(?<=[A-Za-z)\]}])'|\\prime(?![A-Za-z])")
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


@lru_cache(maxsize=1)
def load_algebra() -> ModuleType:
    """The module `symbolic`, whose import takes most of a second; the first use puts a first question to it."""
    symbolic = importlib.import_module("maspo_dist.reward.math.symbolic")
    symbolic.equivalent("x+1", "1+x")
    return symbolic


def same_answer(answer: str, reference: str) -> tuple[bool, str]:
    """Whether two answers as written are the same, and a few words on an answer that could not be compared."""
    if not answer.strip():
        return False, "empty answer"
    if len(answer) > _MAX_TIMES_LONGER * (len(reference) + 1_000):
        return False, "much longer than the reference"
    return _compare(answer, reference)


@lru_cache(maxsize=_REMEMBERED)
def _compare(answer: str, reference: str) -> tuple[bool, str]:
    comparison = _Comparison()
    correct = comparison.same(normalise(answer), normalise(reference), 0)
    return correct, "" if correct else comparison.reason


class _Comparison:
    """One comparison; `reason` keeps the last refusal."""

    reason = ""

    def same(self, found: str, expected: str, nesting: int) -> bool:
        if compact(found) == compact(expected) and found:
            return True
        if not found or not expected or nesting > _MAX_NESTING:
            return False
        as_written = found, expected
        found, expected = align_notation(exact_side(found), exact_side(expected))
        if (found, expected) != as_written and compact(found) == compact(expected):
            return True
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
        return self._same_shape(found, expected, nesting)

    def _same_shape(self, found: str, expected: str, nesting: int) -> bool:
        left, right = outer_shape(found), outer_shape(expected)
        if self._same_parts(found, expected, left, right, nesting):
            return True
        if len(left.items) == len(right.items):
            return False
        # The comma of n = 2,048 separates thousands where the other side is one value.
        plain, wanted_plain = without_thousands(found), without_thousands(expected)
        return (plain, wanted_plain) != (found, expected) and self.same(plain, wanted_plain, nesting + 1)

    def _same_parts(self, found: str, expected: str, left: Parts, right: Parts, nesting: int) -> bool:
        ranges, wanted_ranges = read_intervals(left), read_intervals(right)
        if ranges and wanted_ranges and (ranges[0] or wanted_ranges[0]):
            # A variable that only one side names is a label.
            same_variable = not ranges[0] or not wanted_ranges[0] or ranges[0] == wanted_ranges[0]
            return same_variable and self._in_any_order(ranges[1], wanted_ranges[1], nesting)
        if left.shape == right.shape == "leaf":
            return self._same_leaf(found, expected, nesting)
        shapes = {left.shape, right.shape}
        if shapes in ({"list"}, {"set"}, {"union"}, {"list", "set"}):
            return self._same_items(left, right, nesting)
        if shapes == {"matrix"}:
            return self._same_rows(left.items, right.items, nesting)
        if shapes == {"tuple"}:
            return left.brackets == right.brackets and self._in_order(left.items, right.items, nesting)
        if shapes == {"tuple", "list"}:
            # A point is written in the order of its labels: y = 1, x = 2 is (2, 1).
            ordered = [(without_labels(parts.items) or (parts.items, parts.items))[1] for parts in (left, right)]
            return self._in_order(ordered[0], ordered[1], nesting)
        if shapes == {"tuple", "matrix"}:
            rows, wanted_rows = _rows(left), _rows(right)
            if rows and wanted_rows:
                return self._same_rows(rows, wanted_rows, nesting)
            entries = _entries(left)
            return bool(entries) and self._in_order(entries, _entries(right), nesting)
        if shapes == {"set", "leaf"} and len(left.items) == len(right.items) == 1:
            return self.same(left.items[0], right.items[0], nesting + 1)
        if "leaf" in shapes:
            if is_value(found if left.shape == "leaf" else expected):
                # One value is neither a point, an interval, a matrix nor several values.
                return False
            # Algebra takes 4, 4 for the set of 4; one value is never a list.
            return self._same_leaf(found, expected, nesting, by_algebra="list" not in shapes)
        return False

    def _same_items(self, left: Parts, right: Parts, nesting: int) -> bool:
        """Two lists, sets or unions. Order counts only where one side alone says which value is which."""
        unknown, found = without_unknown(left.items)
        wanted_unknown, expected = without_unknown(right.items)
        if unknown != wanted_unknown and _labelled(left) and _labelled(right):
            return False
        if bool(unknown) == bool(wanted_unknown) and _labelled(left) != _labelled(right):
            labelled = without_labels(right.items if _labelled(right) else left.items)
            if labelled is None:
                return self._in_order(found, expected, nesting)
            as_written, by_label = labelled
            if _labelled(left):
                return self._in_order(by_label, expected, nesting)
            return self._in_order(found, by_label, nesting) or self._in_order(found, as_written, nesting)
        if left.shape == right.shape == "set":
            found, expected = _distinct(found), _distinct(expected)
        return self._in_any_order(found, expected, nesting)

    def _same_when_spelled_out(self, found: str, expected: str) -> bool:
        """`5 million` as 5000000."""
        if not _SCALE.search(found) or _SCALE.search(expected):
            return False
        found = _SCALE.sub(lambda scale: rf"\times 10^{{{_POWERS[scale[1].lower()]}}}", found)
        number, wanted = parse_number(found), parse_number(expected)
        return bool(number and wanted and number.value == wanted.value)

    def _same_leaf(self, found: str, expected: str, nesting: int, *, by_algebra: bool = True) -> bool:
        label, value = without_label(found)
        wanted_label, wanted_value = without_label(expected)
        if label and (wanted_label == label or (not wanted_label and not has_equals(expected))):
            return self.same(value, wanted_value, nesting + 1)
        if wanted_label and not label and not has_equals(found):
            return self.same(found, wanted_value, nesting + 1)
        if has_equals(found) and not has_equals(expected):
            wanted = parse_number(expected)
            if wanted and wanted.value == 0 and _is_equation(found):
                return False
            return self.same(last_side(found), expected, nesting + 1)
        plain, wanted_plain = _without_text(found), _without_text(expected)
        if (plain, wanted_plain) != (found, expected):
            return self.same(plain, wanted_plain, nesting + 1)
        return by_algebra and self._by_algebra(found, expected)

    def _by_algebra(self, found: str, expected: str) -> bool:
        number, wanted = parse_number(found), parse_number(expected)
        rounded = bool((number and number.figures) or (wanted and wanted.figures))
        if are_different(found, expected, _ROUNDED if rounded else _EXACT):
            return False
        if len(_PRIME.findall(found)) != len(_PRIME.findall(expected)):
            self.reason = "primes differ"
            return False
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
            value = load_algebra().value(_in_radians(expected if decimal is number else found))
            if value is None:
                return False
            if abs(value - decimal.value) <= abs(decimal.value) * _FLOAT_NOISE:
                return True
            exact = Number(value=value)
            return equal_numbers(number or exact, wanted or exact)
        return bool(load_algebra().equivalent(_in_radians(found), _in_radians(expected)))

    def _in_order(self, found: tuple[str, ...], expected: tuple[str, ...], nesting: int) -> bool:
        return len(found) == len(expected) and all(
            self.same(left, right, nesting + 1) for left, right in zip(found, expected, strict=True)
        )

    def _same_rows(self, found: tuple[str, ...], expected: tuple[str, ...], nesting: int) -> bool:
        rows = [(left.split("&"), right.split("&")) for left, right in zip(found, expected, strict=False)]
        return len(found) == len(expected) and all(
            self._in_order(tuple(map(str.strip, left)), tuple(map(str.strip, right)), nesting) for left, right in rows
        )

    def _in_any_order(self, found: tuple[str, ...], expected: tuple[str, ...], nesting: int) -> bool:
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
    """`x - 5 = 0` is an equation; `\\cos 90^\\circ = 0` has a value, and `f(1) = 0` names it."""
    first = _COMMAND.sub(" ", text.partition("=")[0])
    return bool(re.search(r"\d", first) and re.search(r"[A-Za-z]", first))


def _rows(parts: Parts) -> tuple[str, ...]:
    """The rows of a matrix, which may be written [[1, 2], [3, 4]]; none for anything else."""
    if parts.shape == "matrix":
        return parts.items
    inner = [outer_shape(item) for item in parts.items]
    nested = all(row.shape == "tuple" and row.brackets == "[]" for row in inner)
    return tuple("&".join(row.items) for row in inner) if nested and parts.brackets == "[]" else ()


def _entries(parts: Parts) -> tuple[str, ...]:
    """The entries of a tuple, or of a matrix of one column or row; a wider matrix is no point."""
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
    """The verdict where the reference is a choice letter, words or a time of day; else None."""
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
        # A reference without am or pm accepts either.
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
    # A' is another point than A.
    text = re.sub(r"\\text|[{}.$\\*\"]|(?<![A-Z])'", "", text).strip().casefold()
    return re.sub(r"\s", "", _ARTICLE.sub("", text))
