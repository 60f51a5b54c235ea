"""Weighted sums of verifiers, such as `0.9*math + 0.1*format`; the parts stay visible as components."""

from __future__ import annotations

import time
from dataclasses import dataclass

from maspo_dist.reward.sample import Sample, Verifier
from maspo_dist.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedPart:
    weight: float
    name: str
    verifier: Verifier


class WeightedVerifier:
    """Σ weight · reward. Status and extracted answer are those of the first part.

    A part without a verdict leaves the whole without a verdict: half a reward is not a reward.
    """

    def __init__(self, parts: tuple[WeightedPart, ...]) -> None:
        self._parts = parts

    def score(self, sample: Sample) -> Verdict:
        """Raises what a part raises."""
        started = time.monotonic()
        scored = [(part, part.verifier.score(sample)) for part in self._parts]
        first = scored[0][1]
        failed = next((verdict for _, verdict in scored if not verdict.verifiable), None)
        return Verdict(
            reward=0.0 if failed else sum(part.weight * verdict.reward for part, verdict in scored),
            status=failed.status if failed else first.status,
            extracted=first.extracted,
            seconds=time.monotonic() - started,
            reason="; ".join(f"{part.name}: {verdict.reason}" for part, verdict in scored if verdict.reason),
            components=tuple((part.name, verdict.reward) for part, verdict in scored),
        )
