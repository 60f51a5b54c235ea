"""Samples, the Protocol of a verifier, and the boundary where errors become verdicts."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from maspo_dist.types import Verdict, VerdictStatus

#: A reward without a status counts as correct from here on.
_CORRECT_FROM = 0.5
#: Characters of the extracted answer, and of the reason, that a verdict keeps.
_EXTRACTED_CHARS, _REASON_CHARS = 500, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response to score against its reference; `source` selects the verifier."""

    response: str
    reference: str
    source: str = ""


class Verifier(Protocol):
    """Scores samples, one at a time.

    Each verifier process makes its own instance, from the VerifierConfig or from nothing. Load slow things there,
    not in `score`. The pool kills a process whose verdict misses the deadline or that exceeds its memory, and later
    makes another: hold nothing that must be closed. The verdict must depend on the sample alone.
    """

    def score(self, sample: Sample) -> Verdict:
        """The verdict on `sample`. What it raises becomes an `error` verdict on this sample alone."""
        ...


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
    return "correct" if reward >= _CORRECT_FROM else "wrong"


def score_safely(score: Callable[[Sample], Verdict], sample: Sample) -> tuple[Verdict, bool]:
    """The verdict, and whether the process can go on: after it ran out of memory, it cannot."""
    started = time.monotonic()
    try:
        verdict = score(sample)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"score returned {type(verdict).__name__}, not a Verdict")
        if not math.isfinite(verdict.reward):
            raise ValueError(f"the reward is {verdict.reward}")
        return verdict, True
    except MemoryError:
        return make_verdict("error", started, reason="out of memory"), False
    except Exception as error:  # a process boundary: whatever a verifier raises is a verdict on the sample
        return make_verdict("error", started, reason=one_line(error)), True


def one_line(error: BaseException) -> str:
    """An error as one line of printable text."""
    text = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
    return text[:_REASON_CHARS].encode("utf-8", "backslashreplace").decode()
