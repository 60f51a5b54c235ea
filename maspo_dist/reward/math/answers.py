"""Where the answer stands in a response.

    1. Text up to the last end of a reasoning block is dropped, as is an unclosed block; what a chat
       template writes after the turn is dropped too.
    2. The last `\\boxed{}` is the answer; `\\fbox{}` counts as one. Boxes with nothing but separators
       between them are kept as a chain: where the reference is a list, the chain is the answer.
    3. An empty last box, or a box that was opened and never closed, is no answer.
    4. Without a box, strict extraction finds no answer; lenient extraction reads `<answer>`, `####`,
       "the answer is …", then the whole text if it is a formula, then the last formula or number.

Every pass is linear in the text, whatever stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from maspo_dist.config.reasoning import REASONING_TAGS, outside_reasoning

Extraction = Literal["strict", "lenient"]

#: Characters at the end of a response that are read: of the whole, and of prose.
_TAIL_CHARS = 1_000_000
_PROSE_CHARS = 4_000

_TURN_END = re.compile(r"<\|(?:im_end|im_start|eot_id|end_of_text|endoftext|end)\|>|</s>|<eos>|<end_of_turn>")
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\[\\{}]|[{}]")
_BARE_BOX = re.compile(r"\\boxed\s{0,8}([^\s{}$\\.,;]+)")
_SEPARATORS = re.compile(
    r"(?:[\s,;$.&]|\\[\[\](),;! ]|\\q?quad|\\text\s?\{\s?(?:and|or)\s?\}|\b(?:and|or)\b)*", re.IGNORECASE
)
ANSWER_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.IGNORECASE | re.DOTALL)
MARKER = re.compile(
    r"(?:\banswers?\b|\bresult\b|\bsolutions?\b)"
    r"(?:[^\S\n]{0,4}(?:\*\*)?(?:is|are|:|=|\*\*)){1,3}|\banswer\s{1,3}(?=\$|\\[(\[])|答案(?:是|为|：|:){1,2}",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$((?:[^$\n\\]|\\.)+)\$", re.DOTALL)
_PERCENT_AFTER = re.compile(r"\s{0,2}(?:\\?%|percent(?:age)?\b|pct\b)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.\\^{])[-+−]?[$€£¥]?[-−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))"
    r"(?:\s?/\s?\d+(?:\.\d+)?|[eE][-+]?\d+|\s?(?:\\times|×)\s?10\^?\{?[-−]?\d+\}?)?"
    r"(?:\s{0,2}(?:\\?%|percent\b|pct\b))?"
)
_TUPLE = re.compile(r"\((?:[-+−]?[\d./]{1,20}\s?,\s?){1,8}[-+−]?[\d./]{1,20}\)")
#: A ratio or a time of day.
_RATIO = re.compile(r"(?<![\w:.])\d{1,9}(?:\s?:\s?\d{1,9})+(?![\w:])")
_ADVERB = re.compile(
    r"^(?:therefore|thus|hence|then|simply|just|exactly|approximately|about|roughly|now|so)\b,?\s*", re.I
)
_FACTOR_AFTER = re.compile(r"(?:\\?pi|π|√|\\sqrt|\^)[\w{}()√π\\]{0,40}")
_NOT_FORMULA = re.compile(r"(?<![\\A-Za-z])(?!(?:and|or)\b)[A-Za-z]{2,}")
_IS = re.compile(r"\b(?:is|are|equals|equal to)\b:?", re.IGNORECASE)
#: A number with its unit, or a choice with its text, and the words that begin a reason: "18 eggs because".
_REASONED = re.compile(
    r"(?P<answer>[$€£¥]?-?\d+(?:[,./]\d+)*%?(?: [a-z]{1,20}){0,3}?|"
    r"(?:[Oo]ption |[Cc]hoice )?(?P<choice>[A-J]|(?:\([A-J]\)|[A-J][):])(?P<text> ?[A-Z\d$\\][^.;]{0,80}?)?))"
    r"(?P<link>,? (?:because|since)|, as(?! (?:well|long|far))|, which|"
    r" is (?:his|her|its|our|your|my|the (?:answer|total|correct|right)|correct|right))\b(?P<rest>.*)",
    re.DOTALL,
)
_SECOND_THOUGHT = re.compile(r"\b(?:but|however|instead|actually|wait|rather|or|, no)\b", re.IGNORECASE)
#: After these words another answer may follow.
_DENIAL = re.compile(
    r"\b(?:not|wrong|incorrect|false|impossible|invalid|if|unless|so|thus|hence|therefore)\b|n't|\?", re.I
)
_NAMED_CHOICE = re.compile(r"(?<![A-Za-z$\\])[A-J](?![A-Za-z'$])")
_SENTENCE_END = re.compile(r"(?<=[^\d\s])\.(?:\s|$)|(?<=\d)\.(?:\s|$)|\n|。")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The answer, None where the response has none; `chain` holds the boxes of a chain, two or more."""

    answer: str | None
    chain: tuple[str, ...] = ()
    reason: str = ""


def read_answer(response: str, extraction: Extraction, tags: Mapping[str, str] = REASONING_TAGS) -> Reading:
    """Finds the answer, by the rules above."""
    text = visible_text(response, tags)
    boxes, unclosed = _boxes(text)
    if boxes:
        return _read_boxes(text, boxes)
    if unclosed:
        return Reading(answer=None, reason="the box is not closed")
    if bare := _BARE_BOX.findall(text[-_PROSE_CHARS:]):
        return Reading(answer=bare[-1])
    if extraction == "strict":
        return Reading(answer=None, reason="no box")
    answer = read_prose(text)
    return Reading(answer=answer, reason="" if answer else "no answer found")


def visible_text(response: str, tags: Mapping[str, str] = REASONING_TAGS) -> str:
    """The response without reasoning blocks and without what follows the turn; at most 1,000,000 characters."""
    text = outside_reasoning(response[-_TAIL_CHARS:], tags)
    for match in _TURN_END.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """Closed outermost boxes as (start, end, content), and whether one was left open."""
    found: list[tuple[int, int, str]] = []
    open_braces: list[tuple[bool, int, int]] = []
    for match in _BOX_TOKEN.finditer(text):
        token = match.group()
        if token.endswith("{") and token != "\\{":
            open_braces.append((len(token) > 1, match.start(), match.end()))
        elif token == "}" and open_braces:
            is_box, start, content = open_braces.pop()
            if is_box:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, match.end(), text[content : match.start()]))
    return found, any(is_box for is_box, _, _ in open_braces)


def _read_boxes(text: str, boxes: list[tuple[int, int, str]]) -> Reading:
    chain = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : chain[-1][0]]
        if len(between) > 40 or not _SEPARATORS.fullmatch(between):
            break
        chain.append(box)
    contents = tuple(content.strip() for _, _, content in reversed(chain))
    if not contents[-1]:
        return Reading(answer=None, reason="the last box is empty")
    return Reading(answer=contents[-1], chain=contents if len(contents) > 1 else ())


def read_prose(text: str) -> str | None:
    """The answer in a text without boxes."""
    tail = text[-_PROSE_CHARS:].replace("**", "").strip().removesuffix("I hope it is correct.").strip()
    if not tail:
        return None
    tags = ANSWER_TAG.findall(tail)
    if tags:
        return tags[-1].strip() or None
    if "####" in tail:
        return tail.rpartition("####")[2].strip().split("\n")[0].strip() or None
    markers = list(MARKER.finditer(tail))
    if markers:
        return _read_clause(tail[markers[-1].end() :].strip())
    if len(tail) <= 200 and "\n" not in tail and not _NOT_FORMULA.search(tail):
        return tail
    return _last_formula_or_number(tail)


def _read_clause(after: str) -> str | None:
    """The answer in what follows "the answer is"."""
    if after.startswith(("$", "\\(", "\\[")):
        formula = _FORMULA.match(after)
        if formula:
            return _with_percent(after, formula)
    sentence = _SENTENCE_END.split(after, maxsplit=1)[0].strip()
    if not sentence:
        return _last_formula_or_number(after[:200])
    # "18, which is the total": the value stands first. "The largest $n$ is 34": the last part counts.
    sentence = _before_reason(sentence) or _IS.split(sentence)[-1].strip() or sentence
    sentence = _ADVERB.sub("", sentence) or sentence
    if not re.search(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}\s+[A-Za-z]{2,}", sentence):
        return sentence
    return _last_formula_or_number(sentence) or sentence[:200]


def _before_reason(sentence: str) -> str | None:
    """The number or choice at the start of a sentence that goes on with a reason for it; None for other sentences.

    None too where another answer may follow: after a denial or a second thought, or where one is named.
    """
    reasoned = _REASONED.match(sentence)
    if not reasoned:
        return None
    choice, link, rest = reasoned.group("choice", "link", "rest")
    is_reason = link.strip(", ") in ("because", "since", "as")
    # The reason for a choice may say what is wrong with the others, that for a number may calculate it.
    other = (reasoned["text"] or "") + ("" if is_reason and choice else rest)
    if _SECOND_THOUGHT.search(rest) or _DENIAL.search(other) or _NAMED_CHOICE.search(other):
        return None
    return None if not is_reason and not choice and re.search(r"\d", rest) else reasoned["answer"]


def _last_formula_or_number(text: str) -> str | None:
    formulas = list(_FORMULA.finditer(text))
    numbers = [match for match in _NUMBER.finditer(text) if any(map(str.isdigit, match.group()))]
    tuples = list(_TUPLE.finditer(text))
    ratios = list(_RATIO.finditer(text))
    # Of matches that end together, max takes the first in this list: the longest.
    last = max(formulas[-1:] + tuples[-1:] + ratios[-1:] + numbers[-1:], key=re.Match.end, default=None)
    if last is None:
        return None
    if formulas and last.end() <= formulas[-1].end():
        return _with_percent(text, formulas[-1])
    factor = _FACTOR_AFTER.match(text, last.end())
    return last.group().strip() + (factor.group() if factor else "")


def _with_percent(text: str, formula: re.Match[str]) -> str:
    content = next(group for group in formula.groups() if group is not None).strip()
    return content + "\\%" if _PERCENT_AFTER.match(text, formula.end()) else content
