"""Numbers as people write them, read exactly. Most answers are decided here, without a parser.

When two numbers count as equal:
    exact against exact       equal as rationals (integers, fractions, mixed numbers, repeating decimals)
    decimal against decimal   equal as rationals, or the answer has more figures and rounds to the
                              reference, given to three significant figures or more
    decimal against exact     the decimal is a correct rounding to five significant figures or more
    percent                   `p%` equals `p` and `p/100`; two percentages compare as written
    base subscript            same digits and same base; a base left out of the answer is forgiven, and base ten
                              may be left out of the reference
    unit                      ignored, unless both sides name different units; units are not converted; $5 is
                              not 5 cents, and 5% neither $5 nor 5 cm
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
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
_EXPONENT = r"10\s?\^\s?(?:\{\s?([+-]?\s?\d+)\s?\}|\(([+-]?\d+)\)|([+-]?\d+))"

_FRACTION = re.compile(rf"\\frac\s?\{{\s?([+-]?\s?{_DECIMAL})\s?\}}\s?\{{\s?([+-]?\s?{_DECIMAL})\s?\}}")
_SIGN = re.compile(rf"([+-]?)\s?(?:{_CURRENCY})?([+-]?)\s?")
_MIXED = re.compile(r"(\d+)\s+(\d+)\s?/\s?(\d+)")
_REPEATING = re.compile(r"(\d+)\.(\d*)\\(?:overline|bar|dot)\s?\{?(\d+)\}?")
_RATIO = re.compile(rf"(\()?\s?([+-]?\s?{_DECIMAL})\s?/\s?([+-]?\s?{_DECIMAL})(?(1)\s?\))")
_POWER_OF_TEN = re.compile(_EXPONENT)
_PLAIN = re.compile(rf"({_DECIMAL})(?:[eE]([+-]?\d+)|\s?(?:\\times|\\cdot|\*|x|X)\s?{_EXPONENT})?")
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
    dollars  whether a dollar sign stands before it
    """

    value: Fraction
    figures: int | None = None
    ulp: Fraction = Fraction(0)
    percent: bool = False
    unit: str = ""
    dollars: bool = False
    base: int | None = None
    digits: str = ""


def parse_number(text: str) -> Number | None:
    """Reads a normalised answer that is one number, with or without unit. None when it is anything else."""
    text = text.strip()
    if not text or len(text) > _MAX_DIGITS:
        return None
    based = _BASED.fullmatch(text)
    if based:
        return _based(based[1].lower(), based[2])
    text = _FRACTION.sub(r" \1/\2", text).strip()
    sign = _SIGN.match(text)
    read = _read(text[sign.end() :]) if sign else None
    if not sign or not read:
        return None
    number, rest = read
    if sign[1] != sign[2] and "-" in sign.groups():
        number = replace(number, value=-number.value)
    percent = _PERCENT.match(rest)
    if percent:
        return None if rest[percent.end() :].strip() else replace(number, percent=True, digits="")
    unit = read_unit(rest)
    if unit is None:
        return None
    return replace(number, unit=unit, dollars="$" in sign[0], digits="" if unit else number.digits)


def equal_numbers(answer: Number, reference: Number) -> bool:
    """Whether `answer` counts as `reference`, by the rules above."""
    if reference.base is not None or answer.base is not None:
        left_out = answer.base is None or (answer.base == 10 and reference.base is None)
        return (left_out or answer.base == reference.base) and answer.digits.lstrip("0") == reference.digits.lstrip("0")
    if _units_differ(answer, reference):
        return False
    if _agree(answer, reference):
        return True
    if reference.percent == answer.percent:
        return False
    if reference.percent:
        return _agree(answer, _hundredth(reference))
    return _agree(_hundredth(answer), reference)


def _units_differ(answer: Number, reference: Number) -> bool:
    if answer.unit and reference.unit:
        return answer.unit != reference.unit
    return any(
        (one.dollars and other.unit == "cent") or (one.percent and bool(other.unit or other.dollars))
        for one, other in ((answer, reference), (reference, answer))
    )


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
    return replace(number, value=number.value / 100, ulp=number.ulp / 100, percent=False)


def _read(text: str) -> tuple[Number, str] | None:
    """The number without sign at the start of `text`, and what follows it."""
    if match := _MIXED.match(text):
        whole, top, bottom = map(int, match.groups())
        number = Number(value=whole + Fraction(top, bottom)) if top < bottom else None
    elif match := _REPEATING.match(text):
        digits, fixed, cycle = match.groups()
        value = Fraction(int(digits + fixed)) + Fraction(int(cycle), 10 ** len(cycle) - 1)
        number = Number(value=value / 10 ** len(fixed))
    elif match := _RATIO.match(text):
        over, under = _decimal(match[2]), _decimal(match[3])
        number = Number(value=over.value / under.value) if under.value else None
    elif match := _POWER_OF_TEN.match(text):
        exponent = _exponent(match[1] or match[2] or match[3])
        number = None if exponent is None else Number(value=Fraction(10) ** exponent)
    elif match := _PLAIN.match(text):
        number = _scaled(match)
    return (number, text[match.end() :]) if match and number else None


def _scaled(match: re.Match[str]) -> Number | None:
    """A decimal, times its power of ten where one is written."""
    number = _decimal(match[1])
    exponent = _exponent(match[2] or match[3] or match[4] or match[5])
    if not exponent:
        return None if exponent is None else replace(number, digits=match[1])
    digits = _SEPARATORS.sub("", match[1]).replace(".", "").lstrip("0")
    scale = Fraction(10) ** exponent
    # 3e8 is a decimal too: as many figures as are written.
    return Number(value=number.value * scale, figures=len(digits) or 1, ulp=(number.ulp or Fraction(1)) * scale)


def _decimal(text: str) -> Number:
    """Digits with an optional sign and point."""
    whole, _, part = _SEPARATORS.sub("", text).partition(".")
    value = Fraction(int(whole + part), 10 ** len(part))
    if not part:
        return Number(value=value)
    digits = (whole + part).lstrip("+-0")
    return Number(value=value, figures=len(digits) or 1, ulp=Fraction(1, 10 ** len(part)))


def _exponent(text: str | None) -> int | None:
    """0 where none is written, None where it is too large."""
    digits = (text or "0").replace(" ", "")
    return int(digits) if len(digits) <= 6 and abs(int(digits)) <= _MAX_EXPONENT else None


def _based(digits: str, base: str) -> Number | None:
    base_value = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}.get(base) or int(base)
    if not 2 <= base_value <= 36:
        return None
    try:
        return Number(value=Fraction(int(digits, base_value)), base=base_value, digits=digits)
    except ValueError:
        return None
