"""The tuned values of every variant: those with the best mean of the measure over the tuning seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maspo_dist.compare.outcome import RunOutcome
from maspo_dist.compare.plan import Candidate, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """One candidate with its finished runs: the measure by seed."""

    candidate: Candidate
    figures: Mapping[int, float]

    @property
    def is_complete(self) -> bool:
        return len(self.figures) == len(self.candidate.runs)

    @property
    def mean(self) -> float | None:
        """None while runs are missing."""
        return math.fsum(self.figures.values()) / len(self.figures) if self.is_complete else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedVariant:
    """The grid of one variant."""

    variant: str
    points: Sequence[GridPoint]

    @property
    def best(self) -> GridPoint | None:
        """The point with the largest mean, the first of equal ones; None while runs are missing."""
        if not all(point.is_complete for point in self.points):
            return None
        return max(self.points, key=lambda point: point.mean or 0.0)

    @property
    def edges(self) -> dict[str, str]:
        """`smallest` or `largest` by key, where the best value is that number of its grid."""
        if self.best is None:
            return {}
        edges = {}
        for key, value in self.best.candidate.values.items():
            numbers = {_number(point.candidate.values[key]) for point in self.points}
            if len(numbers) == 1 or None in numbers:
                continue
            known = [number for number in numbers if number is not None]
            if _number(value) in (min(known), max(known)):
                edges[key] = "smallest" if _number(value) == min(known) else "largest"
        return edges


def tune(plan: Plan, finished: Mapping[Path, RunOutcome | None]) -> list[TunedVariant]:
    """The grids of `plan` with the tuning runs that are `finished`, by folder.

    A run without the measure counts as missing.
    """
    measure = plan.settings.tune_by
    points: dict[str, list[GridPoint]] = {}
    for candidate in plan.candidates:
        outcomes = {run.seed: finished.get(run.folder) for run in candidate.runs}
        figures = {
            seed: outcome.figures[measure]
            for seed, outcome in outcomes.items()
            if outcome is not None and measure in outcome.figures
        }
        points.setdefault(candidate.variant, []).append(GridPoint(candidate=candidate, figures=figures))
    return [TunedVariant(variant=variant, points=grid) for variant, grid in points.items()]


def chosen_values(tuned: Sequence[TunedVariant]) -> dict[str, Mapping[str, str]]:
    """By variant, of the variants whose runs are all there."""
    return {one.variant: one.best.candidate.values for one in tuned if one.best is not None}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
