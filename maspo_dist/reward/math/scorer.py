"""Whether a response answers a mathematical problem.

Extraction (`answers`), then equality (`equality`), most of it without sympy; what is left goes to
`symbolic`, which is imported when it is first needed or when a verifier process warms up.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from fractions import Fraction
from functools import lru_cache

from maspo_dist.reward.math.answers import Extraction, read_answer
from maspo_dist.reward.math.equality import Algebra, same_answer
from maspo_dist.reward.math.latex import normalise
from maspo_dist.reward.math.structure import take_apart
from maspo_dist.reward.safety import score_safely
from maspo_dist.reward.sample import Memo, NoMemo, Sample
from maspo_dist.types import Verdict

_EXTRACTED_CHARS = 500


def verify_math(response: str, reference: str) -> Verdict:
    """Judges `response` against `reference` in this process, with lenient extraction and no deadline.

    Never raises, whatever the strings hold; hostile ones can take long, and belong in a `VerifierPool`.
    """
    return score_safely(_IN_PROCESS, Sample(response=response, reference=reference))[0]


class MathScorer:
    """The `math` verifier. `memo` answers for formulas that were compared before."""

    def __init__(self, extraction: Extraction, memo: Memo) -> None:
        self._extraction: Extraction = extraction
        self._memo = memo

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        reading = read_answer(sample.response, self._extraction)
        if reading.answer is None:
            seconds = time.monotonic() - started
            return Verdict(reward=0.0, status="unparsed", extracted=None, seconds=seconds, reason=reading.reason)
        reference = reference_answer(sample.reference)
        answer = reading.answer
        if reading.chain and take_apart(normalise(reference)).shape in ("list", "set"):
            answer = ", ".join(reading.chain)
        try:
            correct, reason = same_answer(answer, reference, _NO_ALGEBRA)
        except _NeedsAlgebra:
            return self._score_by_algebra(answer, reference, started)
        return _verdict(answer, correct, reason, started)

    def _score_by_algebra(self, answer: str, reference: str, started: float) -> Verdict:
        key = digest("math", answer, reference)
        known = self._memo.recall(key)
        if known is not None:
            return known
        correct, reason = same_answer(answer, reference, load_algebra())
        verdict = _verdict(answer, correct, reason, started)
        self._memo.remember(key, verdict)
        return verdict


def reference_answer(reference: str) -> str:
    """The answer in a reference, which may be a whole solution ending in a box or in `#### answer`."""
    if "\\boxed" in reference:
        return read_answer(reference, "strict").answer or reference
    return reference.rpartition("####")[2].strip() if "####" in reference else reference


@lru_cache(maxsize=1)
def load_algebra() -> Algebra:
    """Imports sympy and math-verify (most of a second) and puts the first question to them."""
    symbolic = importlib.import_module("maspo_dist.reward.math.symbolic")
    algebra = Algebra(symbolic.equivalent, symbolic.value)
    algebra.equivalent("x+1", "1+x")
    return algebra


def digest(*parts: str) -> str:
    """A key for the memo of a pool."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()


class _NeedsAlgebra(Exception):  # noqa: N818 - a signal between two passes, not a failure
    """The fast path cannot tell."""


def _undecided(*_: str) -> bool:
    raise _NeedsAlgebra


def _no_value(_: str) -> Fraction | None:
    raise _NeedsAlgebra


_NO_ALGEBRA = Algebra(_undecided, _no_value)
_IN_PROCESS = MathScorer("lenient", NoMemo())


def _verdict(answer: str, correct: bool, reason: str, started: float) -> Verdict:
    return Verdict(
        reward=float(correct),
        status="correct" if correct else "wrong",
        extracted=answer[:_EXTRACTED_CHARS],
        seconds=time.monotonic() - started,
        reason=reason,
    )
