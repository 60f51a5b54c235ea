"""From the text that names a reward to the scorer behind it."""

from __future__ import annotations

from maspo_dist.config.verifier import VerifierConfig, parse_reward
from maspo_dist.reward.code.scorer import CodeScorer
from maspo_dist.reward.math.scorer import MathScorer, load_algebra
from maspo_dist.reward.sample import Memo, Scorer
from maspo_dist.reward.verifiers.custom import CustomScorer
from maspo_dist.reward.verifiers.gym import ReasoningGymScorer
from maspo_dist.reward.verifiers.matching import (
    ExactScorer,
    FormatScorer,
    JsonScorer,
    MultipleChoiceScorer,
    RegexScorer,
)
from maspo_dist.reward.verifiers.remote import RemoteScorer
from maspo_dist.reward.verifiers.weighted import WeightedPart, WeightedScorer


def build_scorer(reward: str, config: VerifierConfig, memo: Memo) -> Scorer:
    """The scorer of `reward`, imports done and ready for its first sample.

    Raises ConfigError when a function or an optional package is missing, VerifierError when a remote
    scorer is not healthy.
    """
    terms = parse_reward(reward)
    parts = tuple(
        WeightedPart(weight=term.weight, name=term.verifier, scorer=_build_one(term.verifier, config, memo))
        for term in terms
    )
    if len(parts) == 1 and parts[0].weight == 1.0:
        return parts[0].scorer
    return WeightedScorer(parts)


def _build_one(name: str, config: VerifierConfig, memo: Memo) -> Scorer:
    if name.startswith("python:"):
        return CustomScorer(name)
    if name.startswith(("http://", "https://")):
        return RemoteScorer(name, config)
    match name:
        case "math":
            load_algebra()
            return MathScorer(config.extraction, memo)
        case "code":
            return CodeScorer(config.timeout_s, config.memory_mb, config.code_isolation, memo)
        case "exact":
            return ExactScorer()
        case "regex":
            return RegexScorer()
        case "multiple_choice":
            return MultipleChoiceScorer()
        case "json":
            return JsonScorer()
        case "format":
            return FormatScorer()
        case "reasoning_gym":
            return ReasoningGymScorer()
    raise AssertionError(f"no scorer for {name}")
