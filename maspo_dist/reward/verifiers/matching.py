"""Verifiers that compare text: exact, regex, multiple_choice, json, format."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from maspo_dist.config.reasoning import REASONING_TAGS, reasoning_patterns
from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.math.answers import ANSWER_TAG, read_answer, visible_text
from maspo_dist.reward.math.latex import normalise
from maspo_dist.reward.sample import Sample, make_verdict, split_references
from maspo_dist.types import Verdict

#: "I think" names no choice.
_LETTER = re.compile(r"(?<![A-Za-z])([A-HJ]|I(?! +[a-z]))(?![A-Za-z'])")
_JSON_FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_DECODER = json.JSONDecoder()


def plain_answer(response: str, tags: Mapping[str, str] = REASONING_TAGS) -> str | None:
    """The last box, else the last `<answer>`, else the whole visible text; None when that is empty."""
    boxed = read_answer(response, "strict", tags)
    if boxed.answer is not None:
        return boxed.answer
    text = visible_text(response, tags)
    answers = ANSWER_TAG.findall(text)
    return (answers[-1] if answers else text).strip() or None


class _TextVerifier:
    """What verifiers of text take from the configuration: which tags hold reasoning, and what several answers mean."""

    def __init__(self, config: VerifierConfig | None = None) -> None:
        config = config or VerifierConfig()
        self._tags = config.reasoning_tags
        self._all_or_any = all if config.several_answers == "all" else any


class ExactVerifier(_TextVerifier):
    """`exact`: the answer equals the reference, except for white space around them.

    Where all of several answers are wanted, the answer lists them, separated by commas, in any order.
    """

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        answer = plain_answer(sample.response, self._tags)
        wanted = sorted(reference.strip() for reference in split_references(sample.reference))
        if len(wanted) > 1 and self._all_or_any is all and answer is not None:
            return _judged(answer, sorted(part.strip() for part in answer.split(",")) == wanted, started)
        return _judged(answer, answer in wanted, started)


class RegexVerifier(_TextVerifier):
    """`regex`: the reference is a pattern that must match the whole answer."""

    def score(self, sample: Sample) -> Verdict:
        """Raises re.error when the reference is no pattern."""
        started = time.monotonic()
        answer = plain_answer(sample.response, self._tags)
        patterns = split_references(sample.reference)
        matched = answer is not None and self._all_or_any(
            re.fullmatch(pattern, answer, re.DOTALL) is not None for pattern in patterns
        )
        return _judged(answer, matched, started)

    @staticmethod
    def check_reference(reference: str) -> str:
        try:
            [re.compile(pattern) for pattern in split_references(reference)]
        except re.error:
            return "is no regular expression"
        return ""


class MultipleChoiceVerifier(_TextVerifier):
    """`multiple_choice`: one letter, A to J; an answer that names another letter too is wrong."""

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        answer = read_answer(sample.response, "lenient", self._tags).answer
        if answer is None:
            letters = _LETTER.findall(visible_text(sample.response, self._tags)[-200:])
            answer = letters[-1] if letters else None
        chosen = set(_LETTER.findall(_before_value(answer))) if answer else set()
        if not chosen:
            return _judged(None, False, started)
        wanted = [_letters(reference) for reference in split_references(sample.reference)]
        if self._all_or_any is all:
            return _judged(answer, chosen == set().union(*wanted), started)
        return _judged(answer, len(chosen) == 1 and chosen in wanted, started)

    @staticmethod
    def check_reference(reference: str) -> str:
        good = all(len(_letters(part)) == 1 for part in split_references(reference))
        return "" if good else "names no letter from A to J, or several"


class JsonVerifier(_TextVerifier):
    """`json`: compares the fields of the reference, and ignores other fields.

    The reward is the share of right fields; the status is correct when all are right.
    """

    @staticmethod
    def check_reference(reference: str) -> str:
        try:
            expected = json.loads(reference)
        except ValueError:
            return "is no JSON"
        return "" if isinstance(expected, dict) and expected else "is no JSON object with fields"

    def score(self, sample: Sample) -> Verdict:
        """Raises ValueError when the reference is no JSON object."""
        started = time.monotonic()
        expected = json.loads(sample.reference)
        if not isinstance(expected, dict) or not expected:
            raise ValueError("the reference must be a JSON object with fields")
        found, text = _last_object(visible_text(sample.response, self._tags))
        if found is None:
            return make_verdict("unparsed", started, reason="no JSON object")
        right = [name in found and _same_value(found[name], value) for name, value in expected.items()]
        missed = [name for name, ok in zip(expected, right, strict=True) if not ok]
        return make_verdict(
            "wrong" if missed else "correct",
            started,
            reward=sum(right) / len(right),
            extracted=text,
            reason=f"fields that differ: {', '.join(missed)}" if missed else "",
        )


class FormatVerifier(_TextVerifier):
    """`format`: reasoning, if any, in one closed block at the start; after it exactly one answer in a box."""

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        patterns = reasoning_patterns(self._tags)
        opened, closed = (len(pattern.findall(sample.response)) for pattern in patterns)
        # A response that was stored without the tag of its prompt has only the end of the block.
        well_formed = (opened, closed) in ((0, 0), (1, 1), (0, 1))
        boxes = visible_text(sample.response, self._tags).count("\\boxed{")
        answer = read_answer(sample.response, "strict", self._tags).answer
        good = well_formed and boxes == 1 and answer is not None
        reason = "" if good else f"{boxes} boxes, {opened} opening and {closed} closing reasoning tags"
        return make_verdict("correct" if good else "wrong", started, extracted=answer, reason=reason)


def _judged(answer: str | None, correct: bool, started: float) -> Verdict:
    if answer is None:
        return make_verdict("unparsed", started, reason="no answer found")
    return make_verdict("correct" if correct else "wrong", started, extracted=answer)


def _letters(reference: str) -> set[str]:
    return set(_LETTER.findall(normalise(reference).replace("\\text", "").upper()))


def _before_value(answer: str) -> str:
    """`(C) 12` and `C. Paris` name one letter; what follows it is the option's own text."""
    text = re.sub(r"\\text|[{}$*]", "", normalise(answer)).strip()
    labelled = re.match(r"\(?([A-J])(?:\)|[.:])(?![A-Za-z])\s*(?!(?:and|or|,|/|\(?[A-J]\)))", text)
    return labelled[1] if labelled else text


def _last_object(text: str) -> tuple[dict[str, Any] | None, str]:
    """The last JSON object and its text: the object in the last fence with one, else the outermost that ends last."""
    for block in reversed(_JSON_FENCE.findall(text)):
        value, _ = _read_object(block.strip(), 0)
        if value is not None:
            return value, block.strip()
    tail = text[-100_000:]
    best: tuple[dict[str, Any] | None, str] = (None, "")
    position = 0
    for start in islice((match.start() for match in re.finditer(r"\{", tail)), 1_000):
        if start >= position:
            value, end = _read_object(tail, start)
            if value is not None:
                best, position = (value, tail[start:end]), end
    return best


def _read_object(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    return (value, end) if isinstance(value, dict) else (None, start)


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
