"""The `math` verifier: whether a response answers a mathematical problem."""

from __future__ import annotations

import time

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.math.answers import read_answer
from maspo_dist.reward.math.equality import load_algebra, same_answer
from maspo_dist.reward.math.latex import normalise
from maspo_dist.reward.math.references import read_reference, reference_problem
from maspo_dist.reward.math.structure import outer_shape
from maspo_dist.reward.sample import Sample, make_verdict, score_safely
from maspo_dist.types import Verdict

_DEFAULTS = VerifierConfig()


class MathVerifier:
    """Finds the answer in a response, then compares it with the answers in the reference."""

    check_reference = staticmethod(reference_problem)

    def __init__(self, config: VerifierConfig) -> None:
        """Imports the algebra, which takes most of a second."""
        load_algebra()
        self._config = config

    def score(self, sample: Sample) -> Verdict:
        return judge(sample, self._config)


def verify_math(response: str, reference: str) -> Verdict:
    """Judges `response` against `reference` in this process, with lenient extraction and no deadline.

    Never raises, whatever the strings hold. Hostile strings can take long: score them in a `VerifierPool`.
    """
    return score_safely(lambda sample: judge(sample, _DEFAULTS), Sample(response=response, reference=reference))[0]


def judge(sample: Sample, config: VerifierConfig) -> Verdict:
    """The verdict on `sample`. MemoryError passes through."""
    started = time.monotonic()
    reading = read_answer(sample.response, config.extraction, config.reasoning_tags)
    if reading.answer is None:
        return make_verdict("unparsed", started, reason=reading.reason)
    references = read_reference(sample.reference)
    if config.several_answers == "all":
        references = (", ".join(references),)
    for reference in references:
        answer = reading.answer
        if reading.chain and outer_shape(normalise(reference)).shape in ("list", "set"):
            answer = ", ".join(reading.chain)
        correct, reason = same_answer(answer, reference)
        if correct:
            break
    return make_verdict("correct" if correct else "wrong", started, extracted=answer, reason=reason)
