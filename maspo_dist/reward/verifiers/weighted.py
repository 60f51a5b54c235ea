"""Weighted sums of verifiers, such as `0.9*math + 0.1*format`; the parts stay visible as components."""

from __future__ import annotations

import time
from dataclasses import dataclass

from maspo_dist.reward.sample import Sample, Scorer
from maspo_dist.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedPart:
    weight: float
    name: str
    scorer: Scorer


class WeightedScorer:
    """Σ weight · reward. Status and extracted answer are those of the first part.

    A part that is unverifiable makes the whole unverifiable: half a reward is not a reward.
    """

    def __init__(self, parts: tuple[WeightedPart, ...]) -> None:
        self._parts = parts

    def score(self, sample: Sample) -> Verdict:
        """Raises what a part raises."""
        started = time.monotonic()
        verdicts = [part.scorer.score(sample) for part in self._parts]
        components = tuple((part.name, v.reward) for part, v in zip(self._parts, verdicts, strict=True))
        reasons = [f"{p.name}: {v.reason}" for p, v in zip(self._parts, verdicts, strict=True) if v.reason]
        failed = next((verdict for verdict in verdicts if not verdict.verifiable), None)
        total = sum(part.weight * v.reward for part, v in zip(self._parts, verdicts, strict=True))
        return Verdict(
            reward=0.0 if failed else total,
            status=failed.status if failed else verdicts[0].status,
            extracted=verdicts[0].extracted,
            seconds=time.monotonic() - started,
            reason="; ".join(reasons),
            components=components,
        )
