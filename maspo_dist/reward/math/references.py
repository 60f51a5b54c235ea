"""The answers in a reference, which data sets write in many ways.

a bare answer                           as it is
a solution                              its last box, `#### 7`, `<answer>7</answer>`, "the answer is 7", or the last
                                        formula or number of several sentences
a list of texts, ["1/2", "0.5"]         each of them
a float that a conversion made long     0.30000000000000004 is 0.3; 0.10000000149011612, a float32, is 0.1
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from maspo_dist.reward.math.answers import ANSWER_TAG, MARKER, read_answer, read_prose, visible_text
from maspo_dist.reward.math.latex import normalise
from maspo_dist.reward.math.structure import has_matching_brackets
from maspo_dist.reward.sample import split_references

_VALUE = r"(?:\$[^$]+\$|[-+]?\d[\d.,/]*)"
#: A sentence that ends in values: "The sum of the digits is 7.", "The roots are 2 and 3", "Hence $x = 5$."
_STATEMENT = re.compile(
    r"(?:The|Its|Their|So|Then|Hence|Thus|Therefore)\b(?:[^\n]*\b(?:is|are|equals)|,)? "
    rf"({_VALUE}(?:(?:,? and|,) {_VALUE})*)\.?"
)
_SENTENCES = re.compile(r"[a-z)\d$][.!?]\s+[A-Z]|\n")
_LONG_FLOAT = re.compile(r"[-+]?\d*\.\d{8,}(?:[eE][-+]?\d{1,3})?")
_FIGURES = re.compile(r"[1-9][\d.]*")
_FLOAT32_FIGURES, _FLOAT64_FIGURES = 7, 15
#: Figures that a conversion adds at least, for the number to count as a converted one.
_NOISE_FIGURES = 3
#: Nobody writes so many figures; a float64 that is printed may have them.
_NOISY_FIGURES = 17
_PLACEHOLDERS = frozenset({"", "-", "--", "?", "...", "nan", "n/a", "na", "null", "tbd", "unknown", "[]", "{}", "()"})
_MAX_WORDS = 12
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


@lru_cache(maxsize=8_192)
def read_reference(reference: str) -> tuple[str, ...]:
    """The answers that `reference` accepts: one, or those of a list. Never fails and never returns none."""
    return tuple(shorten_float(_answer_in(part) or part) for part in split_references(reference))


def reference_problem(reference: str) -> str:
    """Why answers could not be compared with `reference`, or are compared with less than it says; "" if they can be."""
    for part in split_references(reference):
        answer = _answer_in(part)
        if answer is None or normalise(answer).casefold() in _PLACEHOLDERS or answer.strip() in _PLACEHOLDERS:
            return "no answer can be read"
        if shorten_float(answer) != answer:
            return f"holds the noise of a float, and is read as {shorten_float(answer)}"
        if not has_matching_brackets(normalise(answer)):
            return "its brackets do not match"
        if len(_WORD.findall(answer)) > _MAX_WORDS and "\\" not in answer:
            return "is prose, which only the same words equal"
    return ""


def shorten_float(text: str) -> str:
    """The number that a person wrote, where conversion to float32 or float64 and back has made it longer."""
    stripped = text.strip().strip("$")
    if not _LONG_FLOAT.fullmatch(stripped):
        return text
    value = float(stripped)
    if np.isfinite(np.float32(value)) and float(np.float32(value)) == value:
        short, most = f"{value:.{_FLOAT32_FIGURES}g}", _FLOAT32_FIGURES
    else:
        short, most = f"{value:.{_FLOAT64_FIGURES}g}", _FLOAT64_FIGURES
    written = _figures(stripped)
    is_noise = written - _figures(short) >= _NOISE_FIGURES or written >= _NOISY_FIGURES
    return short if _figures(short) <= most and is_noise else text


def _figures(number: str) -> int:
    found = _FIGURES.search(re.split("[eE]", number)[0])
    return len(found.group().replace(".", "")) if found else 0


def _answer_in(reference: str) -> str | None:
    """None where a text or solution holds no answer."""
    text = visible_text(reference).strip() or reference
    if "\\boxed" in text or "\\fbox" in text:
        return read_answer(text, "strict").answer
    if "####" in text:
        return text.rpartition("####")[2].strip() or None
    if tags := ANSWER_TAG.findall(text):
        return tags[-1].strip() or None
    if statement := _STATEMENT.fullmatch(text):
        return statement[1].replace("$", "").rstrip(".,")
    return read_prose(text) if MARKER.search(text) or _SENTENCES.search(text) else text.strip() or None
