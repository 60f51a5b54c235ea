"""The `math` verifier: whether a response answers a mathematical problem."""

from __future__ import annotations

import time
from functools import partial

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.math.answers import Extraction, read_answer
from maspo_dist.reward.math.equality import load_algebra, same_answer
from maspo_dist.reward.math.latex import normalise
from maspo_dist.reward.math.structure import outer_shape
from maspo_dist.reward.sample import Sample, make_verdict, score_safely
from maspo_dist.types import Verdict


def verify_math(response: str, reference: str) -> Verdict:
    """Judges `response` against `reference` in this process, with lenient extraction and no deadline.

    Never raises, whatever the strings hold. Hostile strings can take long: score them in a `VerifierPool`.
    """
    return score_safely(partial(judge, extraction="lenient"), Sample(response=response, reference=reference))[0]


class MathVerifier:
    """Judges with the extraction that the configuration names. Making it imports the algebra."""

    def __init__(self, config: VerifierConfig) -> None:
        load_algebra()
        self._extraction: Extraction = config.extraction

    def score(self, sample: Sample) -> Verdict:
        return judge(sample, self._extraction)


def judge(sample: Sample, extraction: Extraction) -> Verdict:
    """Finds the answer in the response, then compares it with the answer in the reference."""
    started = time.monotonic()
    reading = read_answer(sample.response, extraction)
    if reading.answer is None:
        return make_verdict("unparsed", started, reason=reading.reason)
    reference = reference_answer(sample.reference)
    answer = reading.answer
    if reading.chain and outer_shape(normalise(reference)).shape in ("list", "set"):
        answer = ", ".join(reading.chain)
    correct, reason = same_answer(answer, reference)
    return make_verdict("correct" if correct else "wrong", started, extracted=answer, reason=reason)


def reference_answer(reference: str) -> str:
    """The answer in a reference, which may be a whole solution that ends in a box or in `#### answer`."""
    if "\\boxed" in reference:
        return read_answer(reference, "strict").answer or reference
    return reference.rpartition("####")[2].strip() if "####" in reference else reference
