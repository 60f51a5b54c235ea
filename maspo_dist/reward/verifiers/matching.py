"""Verifiers that compare text: exact, regex, multiple_choice, json, format."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

from maspo_dist.reward.math.answers import read_answer, visible_text
from maspo_dist.reward.math.latex import normalise
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict, VerdictStatus

_EXTRACTED_CHARS = 500
_ANSWER_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.IGNORECASE | re.DOTALL)
#: "I think" names no choice.
_LETTER = re.compile(r"(?<![A-Za-z])([A-HJ]|I(?! +[a-z]))(?![A-Za-z'])")
_JSON_FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_THINK = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)


def plain_answer(response: str) -> str | None:
    """The last box, else the last `<answer>`, else the whole visible text; None when that is empty."""
    boxed = read_answer(response, "strict")
    if boxed.answer is not None:
        return boxed.answer
    text = visible_text(response)
    tags = _ANSWER_TAG.findall(text)
    return (tags[-1] if tags else text).strip() or None


class ExactScorer:
    """`exact`: the answer is the reference, letter for letter, outer white space aside."""

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        answer = plain_answer(sample.response)
        return text_verdict(answer, answer == sample.reference.strip(), started)


class RegexScorer:
    """`regex`: the reference is a pattern that the whole answer matches."""

    def score(self, sample: Sample) -> Verdict:
        """Raises re.error for a reference that is no pattern."""
        started = time.monotonic()
        answer = plain_answer(sample.response)
        matched = answer is not None and re.fullmatch(sample.reference, answer, re.DOTALL) is not None
        return text_verdict(answer, matched, started)


class MultipleChoiceScorer:
    """`multiple_choice`: one letter, A to J; an answer that names two is wrong."""

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        answer = read_answer(sample.response, "lenient").answer
        if answer is None:
            letters = _LETTER.findall(visible_text(sample.response)[-200:])
            answer = letters[-1] if letters else None
        chosen = set(_LETTER.findall(_before_value(answer))) if answer else set()
        wanted = set(_LETTER.findall(normalise(sample.reference).replace("\\text", "").upper()))
        if not chosen:
            return text_verdict(None, False, started)
        return text_verdict(answer, chosen == wanted and len(wanted) == 1, started)


class JsonScorer:
    """`json`: the fields of the reference, compared; fields beside them are read over.

    The reward is the share of fields that are right; the status is correct when all are.
    """

    def score(self, sample: Sample) -> Verdict:
        """Raises ValueError for a reference that is no JSON object."""
        started = time.monotonic()
        expected = json.loads(sample.reference)
        if not isinstance(expected, dict) or not expected:
            raise ValueError("the reference must be a JSON object with fields")
        found, text = _last_object(visible_text(sample.response))
        seconds = time.monotonic() - started
        if found is None:
            return Verdict(reward=0.0, status="unparsed", extracted=None, seconds=seconds, reason="no JSON object")
        right = [name in found and _same_value(found[name], value) for name, value in expected.items()]
        missed = [name for name, ok in zip(expected, right, strict=True) if not ok]
        return Verdict(
            reward=sum(right) / len(right),
            status="wrong" if missed else "correct",
            extracted=text[:_EXTRACTED_CHARS],
            seconds=seconds,
            reason=f"fields that differ: {', '.join(missed)}"[:300] if missed else "",
        )


class FormatScorer:
    """`format`: reasoning, if any, in one closed block at the start; after it exactly one answer in a box."""

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        tags = [match.group().lower() for match in _THINK.finditer(sample.response)]
        opened, closed = sum(not tag.startswith("</") for tag in tags), sum(tag.startswith("</") for tag in tags)
        # Templates that open the block in the prompt leave only the end of it in the response.
        well_formed = (opened, closed) in ((0, 0), (1, 1), (0, 1))
        boxes = visible_text(sample.response).count("\\boxed{")
        answer = read_answer(sample.response, "strict").answer
        good = well_formed and boxes == 1 and answer is not None
        reason = "" if good else f"{boxes} boxes, {opened} opening and {closed} closing reasoning tags"
        seconds = time.monotonic() - started
        return Verdict(
            reward=float(good), status="correct" if good else "wrong", extracted=answer, seconds=seconds, reason=reason
        )


def text_verdict(answer: str | None, correct: bool, started: float) -> Verdict:
    """The verdict on an answer that is right, wrong or not there."""
    seconds = time.monotonic() - started
    if answer is None:
        return Verdict(reward=0.0, status="unparsed", extracted=None, seconds=seconds, reason="no answer found")
    status: VerdictStatus = "correct" if correct else "wrong"
    return Verdict(reward=float(correct), status=status, extracted=answer[:_EXTRACTED_CHARS], seconds=seconds)


def _before_value(answer: str) -> str:
    """`(C) 12` and `C. Paris` name one letter; what follows it is the option's own text."""
    text = re.sub(r"\\text|[{}$*]", "", normalise(answer)).strip()
    labelled = re.match(r"\(?([A-J])(?:\)|[.:])(?![A-Za-z])\s*(?!(?:and|or|,|/|\(?[A-J]\)))", text)
    return labelled[1] if labelled else text


def _last_object(text: str) -> tuple[dict[str, Any] | None, str]:
    candidates = [block.strip() for block in _JSON_FENCE.findall(text)][::-1]
    starts = [match.start() for match in re.finditer(r"\{", text[-100_000:])]
    decoder = json.JSONDecoder()
    tail = text[-100_000:]
    for candidate in candidates:
        parsed = _decode(decoder, candidate, 0)
        if parsed is not None:
            return parsed, candidate
    # Outermost object that ends last: the first start from which a whole object can be read.
    best: tuple[dict[str, Any] | None, str] = (None, "")
    position = 0
    for start in starts[:1_000]:
        if start < position:
            continue
        try:
            value, end = decoder.raw_decode(tail, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            best, position = (value, tail[start:end]), end
    return best


def _decode(decoder: json.JSONDecoder, text: str, start: int) -> dict[str, Any] | None:
    try:
        value = decoder.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _same_value(found: object, expected: object) -> bool:
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, int | float) and isinstance(expected, int | float):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(found, str) and isinstance(expected, str):
        return found.strip() == expected.strip()
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same_value, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_same_value(found[key], expected[key]) for key in expected)
    return found is None and expected is None
