"""From the text that names a reward to the scorer behind it."""

from __future__ import annotations

from maspo_dist.config.verifier import VerifierConfig, parse_reward
from maspo_dist.reward.math import MathScorer
from maspo_dist.reward.sample import Memo, Sample, Scorer
from maspo_dist.types import Verdict


def build_scorer(reward: str, config: VerifierConfig, memo: Memo) -> Scorer:
    """The scorer of `reward`, imports done and ready for its first sample."""
    terms = parse_reward(reward)
    scorers = [(term.weight, term.verifier, _build_one(term.verifier, config, memo)) for term in terms]
    if len(scorers) == 1 and scorers[0][0] == 1.0:
        return scorers[0][2]
    return WeightedScorer(scorers)


def _build_one(name: str, config: VerifierConfig, memo: Memo) -> Scorer:
    return MathScorer(config.extraction, memo)


class WeightedScorer:
    def __init__(self, scorers: list[tuple[float, str, Scorer]]) -> None:
        self._scorers = scorers

    def score(self, sample: Sample) -> Verdict:
        raise NotImplementedError
