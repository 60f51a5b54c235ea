"""Whether a response answers a mathematical problem."""

from __future__ import annotations

import time
from typing import Literal

from maspo_dist.reward.sample import Memo, NoMemo, Sample
from maspo_dist.types import Verdict


def verify_math(response: str, reference: str) -> Verdict:
    """Judges `response` against `reference` in this process, without a deadline."""
    return MathScorer("lenient", NoMemo()).score(Sample(response=response, reference=reference))


class MathScorer:
    def __init__(self, extraction: Literal["strict", "lenient"], memo: Memo) -> None:
        import math_verify

        self._mv = math_verify

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        target = self._mv.parse(sample.response, parsing_timeout=None)
        gold = self._mv.parse("\\boxed{" + sample.reference + "}", parsing_timeout=None)
        ok = self._mv.verify(gold, target, timeout_seconds=None)
        seconds = time.monotonic() - started
        if not target:
            return Verdict(reward=0.0, status="unparsed", extracted=None, seconds=seconds)
        return Verdict(
            reward=float(ok), status="correct" if ok else "wrong", extracted=str(target[-1]), seconds=seconds
        )
