"""Numbers as people write them, exactly: the fast path that decides most answers without a parser.

When two numbers count as equal:
    exact against exact       equal as rationals (integers, fractions, mixed numbers, repeating decimals)
    decimal against decimal   equal as rationals, or the answer has more figures and rounds to the
                              reference, given to three significant figures or more
    decimal against exact     the decimal is a correct rounding to five significant figures or more
    percent                   `p%` equals `p` and `p/100`; two percentages compare as written
    base subscript            same digits and same base; a base left out of the answer is forgiven
    unit                      ignored, unless both sides name different units; units are not converted
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from maspo_dist.reward.math.units import read_unit

_MAX_DIGITS = 2_000
_MAX_EXPONENT = 5_000
#: Figures from which a decimal may stand for an exact value, or a reference for a longer decimal.
_ROUNDED_FIGURES = 5
_REFERENCE_FIGURES = 3

_CURRENCY = r"(?:(?:US|A|C|HK)?\\?\$|€|£|¥|₹|\\text\{\s?(?:\\?\$|€|£|¥|₹)\s?\}|\\pounds|\\euro|Rs\.?|USD)\s?"
_INTEGER = r"(?:\d{1,3}(?:(?:,|,\s?(?=\\!)|\\,)\d{3})+|\d{1,3}(?: \d{3})+(?![\d ])|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_POWER = r"(?:\\times|\\cdot|\*|x|X)\s?10\s?\^\s?(?:\{\s?([+-]?\s?\d+)\s?\}|\(([+-]?\d+)\)|([+-]?\d+))"
_SIGN = r"([+-]?)\s?"
_FRACTION = rf"\\frac\s?\{{\s?([+-]?\s?{_DECIMAL})\s?\}}\s?\{{\s?([+-]?\s?{_DECIMAL})\s?\}}"

_PLAIN = re.compile(rf"{_SIGN}(?:{_CURRENCY})?{_SIGN}({_DECIMAL})(?:[eE]([+-]?\d+)|\s?{_POWER})?")
_POWER_OF_TEN = re.compile(r"([+-]?)\s?10\s?\^\s?(?:\{\s?([+-]?\s?\d+)\s?\}|([+-]?\d))")
_REPEATING = re.compile(rf"{_SIGN}(\d+)\.(\d*)\\(?:overline|bar|dot)\s?\{{?(\d+)\}}?")
_RATIO = re.compile(rf"{_SIGN}(?:{_CURRENCY})?(?:{_FRACTION}|({_DECIMAL})\s?/\s?([+-]?{_DECIMAL}))")
_RATIO_IN_SIGN = re.compile(rf"{_SIGN}\(\s?([+-]?{_DECIMAL})\s?/\s?({_DECIMAL})\s?\)")
_MIXED = re.compile(rf"{_SIGN}(\d+)(?:\s?\\frac\s?\{{\s?(\d+)\s?\}}\s?\{{\s?(\d+)\s?\}}|\s(\d+)\s?/\s?(\d+))")
_BASED = re.compile(r"([0-9A-Za-z]{1,200})_\{?(?:\\text\{)?\s?(\d{1,2}|two|eight|ten|sixteen)\s?\}?\}?")
_PERCENT = re.compile(r"\s?(?:\\?%|\\text\{\s?\\?%\s?\}|(?:\\text\{\s?)?(?:percent(?:age)?|pct|per cent)(?:\s?\})?)")
_SEPARATORS = re.compile(r"[,\s]|\\[,!]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as written.

    value    exact
    figures  significant figures of a decimal, None for an exact form (integer, fraction)
    ulp      value of one unit in the last place of a decimal, 0 for an exact form
    base     of the notation, where a subscript gives one; then `digits` holds what stands before it
    unit     in one spelling, "" where none is given
    """

    value: Fraction
    figures: int | None = None
    ulp: Fraction = Fraction(0)
    percent: bool = False
    unit: str = ""
    base: int | None = None
    digits: str = ""


def parse_number(text: str) -> Number | None:
    """Reads a normalised answer that is one number, with or without unit. None when it is anything else."""
    text = text.strip()
    if not text or len(text) > _MAX_DIGITS:
        return None
    based = _BASED.fullmatch(text)
    if based:
        return _based(based)
    for read in (_read_mixed, _read_repeating, _read_ratio, _read_power_of_ten, _read_plain):
        found = read(text)
        if found is None:
            continue
        number, rest = found
        finished = _finish(number, rest)
        if finished is not None:
            return finished
    return None


def equal_numbers(answer: Number, reference: Number) -> bool:
    """Whether `answer` counts as `reference`, by the rules above."""
    if reference.base is not None or answer.base is not None:
        same_base = answer.base == reference.base or (answer.base is None and reference.base is not None)
        return same_base and answer.digits.lstrip("0") == reference.digits.lstrip("0")
    if answer.unit and reference.unit and answer.unit != reference.unit:
        return False
    if _agree(answer, reference):
        return True
    if reference.percent == answer.percent:
        return False
    if reference.percent:
        return _agree(answer, _hundredth(reference))
    return _agree(_hundredth(answer), reference)


def _agree(answer: Number, reference: Number) -> bool:
    gap = abs(answer.value - reference.value)
    if gap == 0:
        return True
    if answer.figures is None and reference.figures is None:
        return False
    if answer.figures is not None and reference.figures is not None:
        finer = answer.ulp < reference.ulp and answer.figures > reference.figures
        return finer and reference.figures >= _REFERENCE_FIGURES and gap * 2 <= reference.ulp
    decimal, exact = (answer, reference) if answer.figures is not None else (reference, answer)
    if exact.value.denominator == 1:
        return False
    return (decimal.figures or 0) >= _ROUNDED_FIGURES and gap * 2 <= decimal.ulp


def _hundredth(number: Number) -> Number:
    return Number(value=number.value / 100, figures=number.figures, ulp=number.ulp / 100, unit=number.unit)


def _finish(number: Number, rest: str) -> Number | None:
    """Percent sign and unit."""
    percent = _PERCENT.match(rest)
    if percent:
        if rest[percent.end() :].strip():
            return None
        return Number(value=number.value, figures=number.figures, ulp=number.ulp, percent=True)
    unit = read_unit(rest)
    if unit is None:
        return None
    return Number(
        value=number.value, figures=number.figures, ulp=number.ulp, unit=unit, digits=number.digits if not unit else ""
    )


def _decimal(text: str) -> tuple[Fraction, int | None, Fraction] | None:
    """Value, significant figures and last place of digits with an optional point."""
    plain = _SEPARATORS.sub("", text)
    whole, point, part = plain.partition(".")
    if len(plain) > _MAX_DIGITS:
        return None
    digits = whole.lstrip("+-") + part
    value = Fraction(int(plain[:1] + digits) if plain[:1] in "+-" else int(digits or "0"), 10 ** len(part))
    if not point or not part:
        return value, None, Fraction(0)
    return value, len(digits.lstrip("0")) or 1, Fraction(1, 10 ** len(part))


def _read_plain(text: str) -> tuple[Number, str] | None:
    match = _PLAIN.match(text)
    if not match:
        return None
    parts = _decimal(match[3])
    exponent = _exponent(match[4] or match[5] or match[6] or match[7])
    if parts is None or exponent is None:
        return None
    value, figures, ulp = parts
    if exponent != 0:
        digits = _SEPARATORS.sub("", match[3]).replace(".", "").lstrip("0")
        scale = Fraction(10) ** exponent
        # 3e8 is a decimal too: as many figures as are written.
        figures, ulp = len(digits) or 1, (ulp or Fraction(1)) * scale
        value *= scale
    sign = -1 if (match[1] == "-") != (match[2] == "-") else 1
    number = Number(value=sign * value, figures=figures, ulp=ulp, digits=match[3])
    return number, text[match.end() :]


def _exponent(text: str | None) -> int | None:
    if not text:
        return 0
    digits = text.replace(" ", "")
    if len(digits) > 6 or abs(int(digits)) > _MAX_EXPONENT:
        return None
    return int(digits)


def _read_power_of_ten(text: str) -> tuple[Number, str] | None:
    match = _POWER_OF_TEN.match(text)
    exponent = _exponent(match[2] or match[3]) if match else None
    if not match or exponent is None:
        return None
    value = Fraction(10) ** exponent * (-1 if match[1] == "-" else 1)
    return Number(value=value), text[match.end() :]


def _read_repeating(text: str) -> tuple[Number, str] | None:
    match = _REPEATING.match(text)
    if not match:
        return None
    sign, whole, fixed, cycle = match.groups()
    value = int(whole) + Fraction(int(fixed or "0"), 10 ** len(fixed))
    value += Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))
    return Number(value=-value if sign == "-" else value), text[match.end() :]


def _read_ratio(text: str) -> tuple[Number, str] | None:
    match = _RATIO.match(text) or _RATIO_IN_SIGN.match(text)
    if not match:
        return None
    sign, *sides = (group for group in match.groups() if group is not None)
    top, bottom = (_decimal(side.replace(" ", "")) for side in sides)
    if not top or not bottom or bottom[0] == 0:
        return None
    value = top[0] / bottom[0]
    return Number(value=-value if sign == "-" else value), text[match.end() :]


def _read_mixed(text: str) -> tuple[Number, str] | None:
    match = _MIXED.match(text)
    if not match:
        return None
    sign, whole, *parts = (group for group in match.groups() if group is not None)
    top, bottom = map(int, parts)
    if bottom == 0 or top >= bottom:
        return None
    value = int(whole) + Fraction(top, bottom)
    return Number(value=-value if sign == "-" else value), text[match.end() :]


def _based(match: re.Match[str]) -> Number | None:
    digits, base = match[1].lower(), match[2]
    base_value = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}.get(base) or int(base)
    try:
        value = int(digits, base_value) if 2 <= base_value <= 36 else None
    except ValueError:
        return None
    return None if value is None else Number(value=Fraction(value), base=base_value, digits=digits)
