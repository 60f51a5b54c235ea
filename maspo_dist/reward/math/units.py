"""Units behind a number: `18 dollars` is 18. A unit is brought to one spelling and never converted."""

from __future__ import annotations

import re

_JOINING = (
    "and or to mod plus minus times over sin cos tan cot sec csc log ln exp sqrt pi if for when where with not "
    "is infinity inf nan through versus vs"
)
_SIGNS = (
    "m cm mm km nm um dm ft in yd mi kg mg g lb lbs oz s ms ns hr hrs h min mins sec day days yr yrs L mL ml l J "
    "kJ N erg ergs sq W kW V A Hz Pa kPa K C F eV keV MeV GeV mol cal kcal rad deg mph kph rpm am pm dollars "
    "cents USD"
)
_WORDS_THAT_JOIN = frozenset(_JOINING.split())
#: Unit signs that could be variables; outside \text{} they count only as `_is_bare_unit` says.
_SHORT_UNITS = frozenset(_SIGNS.split())
#: Several spellings of one unit.
_SPELLINGS = {
    long: short
    for short, longs in {
        "in": "inch inches", "ft": "foot feet", "yd": "yard yards", "mi": "mile miles",
        "m": "meter meters metre metres",
        "cm": "centimeter centimeters centimetre centimetres", "mm": "millimeter millimeters millimetre millimetres",
        "km": "kilometer kilometers kilometre kilometres", "h": "hour hours hr hrs", "min": "minute minutes mins",
        "s": "second seconds sec secs", "g": "gram grams", "kg": "kilogram kilograms", "lb": "pound pounds lbs",
        "$": "dollar dollars usd", "degree": "degrees", "oz": "ounce ounces", "l": "liter liters litre litres",
        "mi/h": "mph", "km/h": "kph kmh",
    }.items()
    for long in longs.split()
}  # fmt: skip
_WORD = re.compile(r"[a-z]+")
_POWER_WORD = re.compile(r"(?:sq|square|cubic)\.?\s+([a-z]+)")
_FRACTION_OF_UNITS = re.compile(
    r"\\frac\s?\{\s?(\\text\s?\{[^{}]{1,20}\})\s?\}\s?\{\s?(\\text\s?\{[^{}]{1,20}\}(?:\s?\^\s?\{?\d\}?)?)\s?\}"
)
#: What follows a letter that is a unit: m/s.
_DIVIDES = re.compile(r"\s?/\s?(?:s|h|hr|min|m|kg|L|mol)(?![A-Za-z])")
_CHINESE_JOINING = re.compile("[或和与到至]")
_PIECE = re.compile(
    r"\s?(?:\\text\s?\{([^{}]{0,120})\}|(\^\s?\\circ)|\\(?:text)?(degree|angstrom|Omega|mu|ohm)\b|"
    r"\^\s?\{?\s?(-?[1-9])\s?\}?|([/*.-]|\\cdot|\\times|\\%)|([A-Za-z$€£¥₹°Å²³μ]+|[\u4e00-\u9fff]{1,6}))"
)


def read_unit(text: str) -> str | None:
    """The unit in `text`, in one spelling; "" for no text, None for text that is no unit."""
    rest = _FRACTION_OF_UNITS.sub(r"\1/\2", text.strip())
    if not rest:
        return ""
    if len(rest) > 200:
        return None
    pieces: list[str] = []
    position = 0
    while position < len(rest):
        match = _PIECE.match(rest, position)
        if not match:
            return None
        words, circle, sign, power, operator, bare = match.groups()
        if words is not None:
            if any(word.lower() in _WORDS_THAT_JOIN for word in re.findall(r"[A-Za-z]+", words)[:1]):
                return None
            pieces.append(words.strip())
        elif bare is not None:
            divided = bool(pieces) and pieces[-1] in ("/", "\\cdot", "*")
            if not divided and not _is_bare_unit(
                bare,
                after_space=rest[position] == " " or (position == 0 and text[:1] == " "),
                divides=_DIVIDES.match(rest, match.end()) is not None,
            ):
                return None
            pieces.append(bare)
        elif (power or operator) and not pieces:
            return None
        else:
            pieces.append("degree" if circle or sign == "degree" else sign or operator or f"^{power}")
        position = match.end()
    return _spelling(" ".join(pieces))


def _is_bare_unit(word: str, *, after_space: bool, divides: bool) -> bool:
    """`4 apples`, `4cm` and `4 m/s`, but neither `4 m` nor `4x` nor `4xyz`."""
    if not word.isascii():
        return not _CHINESE_JOINING.search(word)
    if word in _SHORT_UNITS:
        return len(word) > 1 or (after_space and divides)
    return after_space and len(word) >= 3 and word.lower() not in _WORDS_THAT_JOIN


def _spelling(unit: str) -> str:
    unit = unit.lower().replace(" per ", "/")
    unit = _POWER_WORD.sub(lambda match: match[1] + ("^3" if match[0].startswith("cubic") else "^2"), unit)
    unit = _WORD.sub(lambda match: _SPELLINGS.get(match[0], match[0]), unit)
    unit = re.sub(r"[\s.]", "", unit)
    return unit[:-1] if len(unit) > 3 and unit.endswith("s") else unit
