"""Shaping on top of verdicts: weighted sums, and the price of answers that run long. Parts stay visible."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

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


def overlong_penalty(response_tokens: int, max_response_tokens: int, buffer_tokens: int, penalty: float) -> float:
    """DAPO's soft punishment: 0 up to `max − buffer` tokens, then linear to −penalty at `max`."""
    if buffer_tokens == 0:
        return 0.0
    over = response_tokens - (max_response_tokens - buffer_tokens)
    return -penalty * min(max(over / buffer_tokens, 0.0), 1.0)


def with_penalty(verdict: Verdict, name: str, amount: float) -> Verdict:
    """`verdict` with `amount` (≤ 0) added to its reward and shown among its components.

    An unverifiable verdict stays as it is.
    """
    if amount == 0 or not verdict.verifiable:
        return verdict
    components = verdict.components or (("verifier", verdict.reward),)
    return replace(verdict, reward=verdict.reward + amount, components=(*components, (name, amount)))
