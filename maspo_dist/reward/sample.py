"""Samples, the Protocol of a verifier, and the boundary where errors become verdicts."""

from __future__ import annotations

import ast
import json
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from maspo_dist.types import LARGEST_REWARD, Verdict, VerdictStatus

#: A reward without a status counts as correct from here on.
CORRECT_FROM = 0.5
#: Characters of the extracted answer, and of the reason, that a verdict keeps.
_EXTRACTED_CHARS, _REASON_CHARS = 500, 300


_TEXT = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_LIST_OF_TEXTS = re.compile(rf"\s*\[\s*{_TEXT}(?:\s*,\s*{_TEXT})*\s*,?\s*\]\s*", re.DOTALL)
#: `['\\frac{1}{2}']` with a single backslash: LaTeX that was never escaped.
_UNESCAPED = re.compile(r"(?<!\\)\\(?:(?!u[\da-fA-F]{4}|x[\da-f]{2}|n(?!eq))[A-Za-z]{2,}|[^A-Za-z\d\\\"'/])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response to score against its reference; `source` selects the verifier.

    Where the prompt left a reasoning block open, `response` begins with the tag that opened it.
    """

    response: str
    reference: str
    source: str = ""


class Verifier(Protocol):
    """Scores samples, one at a time.

    Each verifier process makes its own instance, from the VerifierConfig or from nothing. Load slow things there,
    not in `score`. The pool kills a process whose verdict misses the deadline or that exceeds its memory, and later
    makes another: hold nothing that must be closed. The verdict must depend on the sample alone.

    A class may have a static method `check_reference(reference: str) -> str`. `maspo-dist check` calls it for every
    reference of the verifier's sources; it returns what is wrong with the reference, in a few words, or "".
    """

    def score(self, sample: Sample) -> Verdict:
        """The verdict on `sample`. What it raises becomes an `error` verdict on this sample alone."""
        ...


def split_references(reference: str) -> tuple[str, ...]:
    """The references in a list of texts, `["1/2", "0.5"]` or `['70']`; any other text is one reference."""
    if not _LIST_OF_TEXTS.fullmatch(reference):
        return (reference,)
    if _UNESCAPED.search(reference):
        texts = [text[1:-1] for text in re.findall(_TEXT, reference)]
    else:
        try:
            # The JSON of a data set, or the text that Python prints for a list.
            texts = json.loads(reference) if "'" not in reference else ast.literal_eval(reference.strip())
        except (ValueError, SyntaxError):
            return (reference,)
    return tuple(text for text in texts if text.strip()) or (reference,)


def make_verdict(
    status: VerdictStatus,
    started: float,
    *,
    reward: float | None = None,
    extracted: str | None = None,
    reason: str = "",
) -> Verdict:
    """A verdict that took since `started` (time.monotonic). Without `reward`, `correct` earns 1 and the others 0."""
    return Verdict(
        reward=float(status == "correct") if reward is None else reward,
        status=status,
        extracted=None if extracted is None else extracted[:_EXTRACTED_CHARS],
        seconds=time.monotonic() - started,
        reason=reason[:_REASON_CHARS],
    )


def status_of(reward: float) -> VerdictStatus:
    """The status of a reward that came without a status."""
    return "correct" if reward >= CORRECT_FROM else "wrong"


def reward_problem(reward: float) -> str:
    """Why `reward` cannot be trained on; "" where it can."""
    is_fit = -LARGEST_REWARD <= reward <= LARGEST_REWARD
    return "" if is_fit else f"the reward is {reward}, not a number within ±{LARGEST_REWARD:g}"


def score_safely(score: Callable[[Sample], Verdict], sample: Sample) -> tuple[Verdict, bool]:
    """The verdict, and whether the process can go on: after it ran out of memory, it cannot."""
    started = time.monotonic()
    try:
        verdict = score(sample)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"score returned {type(verdict).__name__}, not a Verdict")
        if problem := reward_problem(verdict.reward):
            raise ValueError(problem)
        return verdict, True
    except MemoryError:
        return make_verdict("error", started, reason="out of memory"), False
    except Exception as error:  # a process boundary: whatever a verifier raises is a verdict on the sample
        return make_verdict("error", started, reason=one_line(error)), True


def one_line(error: BaseException) -> str:
    """An error as one line of printable text."""
    text = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
    return text[:_REASON_CHARS].encode("utf-8", "backslashreplace").decode()
