"""The results.json of an earlier comparison: its runs stand for runs of another comparison, which trains the rest.

A run is the same if its variant has the same name, overrides, tuned values and seed. The file does not hold the rest of
the configuration: `Earlier.require_like` compares score and samples, and `differing_starts` the scores before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from maspo_dist.compare.outcome import MEASURES, RunOutcome
from maspo_dist.compare.plan import Candidate, Plan
from maspo_dist.config import CompareConfig
from maspo_dist.errors import ConfigError

#: Largest difference of equal scores: results.json rounds them.
_EQUAL = 1e-6


class _Run(BaseModel, extra="allow"):
    """Extra fields are the figures of `MEASURES`."""

    variant: str
    seed: int
    steps: int
    samples: int
    steps_to_reach: int | None

    @property
    def figures(self) -> dict[str, float]:
        extra = self.model_extra or {}
        return {name: float(extra[name]) for name in MEASURES if extra.get(name) is not None}


class _Variant(BaseModel):
    name: str
    overrides: tuple[str, ...]


class _Point(BaseModel):
    values: Mapping[str, str]
    by_seed: Mapping[int, float]


class _Grid(BaseModel):
    variant: str
    grid: Sequence[_Point]


class _Tuning(BaseModel):
    measure: str
    variants: Sequence[_Grid]


class _Results(BaseModel):
    """What is read of results.json, see `maspo_dist.compare.results`."""

    score: str
    reach: float
    tuning: _Tuning | None
    runs: Sequence[_Run]
    variants: Sequence[_Variant]


class Earlier:
    """The finished runs of an earlier comparison."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when `path` is not the results.json of a comparison that has finished runs."""
        self.path = path
        fix = "give the results.json that maspo-dist compare has written"
        try:
            self._results = _Results.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"--earlier {path} cannot be read ({error.strerror}): {fix}") from None
        except ValidationError:
            raise ConfigError(f"--earlier {path} is not the results.json of a comparison: {fix}") from None
        self._overrides = {variant.name: variant.overrides for variant in self._results.variants}
        self._runs = {(run.variant, run.seed): run for run in self._results.runs}

    def with_reach(self, settings: CompareConfig) -> CompareConfig:
        """`settings` with the score to which the steps of its runs are counted, unless they name a score."""
        return settings if settings.reach is not None else settings.model_copy(update={"reach": self._results.reach})

    def require_like(self, plan: Plan) -> None:
        """Raises ConfigError if its runs do not compare with those of `plan`."""
        theirs, ours = self._results, plan.runs[0]
        if theirs.score != plan.score:
            raise ConfigError(f"--earlier {self.path} has the score {theirs.score}, not {plan.score}: set score")
        if plan.reach not in (None, theirs.reach):
            reach = f"{theirs.reach}, not {plan.reach}"
            raise ConfigError(f"--earlier {self.path} counts steps to the score {reach}: leave out reach")
        measure = plan.settings.tune_by
        if plan.candidates and theirs.tuning and theirs.tuning.measure != measure:
            raise ConfigError(f"--earlier {self.path} is tuned by {theirs.tuning.measure}, not {measure}: set tune_by")
        for run in theirs.runs:
            if (run.samples, run.steps) != (ours.samples, ours.config.run.max_steps):
                raise ConfigError(
                    f"--earlier {self.path} trains on {run.samples:,} samples in {run.steps} steps, and this "
                    f"comparison on {ours.samples:,} in {ours.config.run.max_steps}: compare equal runs"
                )

    def outcomes(self, plan: Plan) -> dict[Path, RunOutcome]:
        """By folder, of the runs of `plan` that it holds. They have figures, and no curves."""
        found = {}
        for run in plan.runs:
            row = self._runs.get((run.variant, run.seed))
            if row is not None and self._overrides.get(run.variant) == tuple(plan.variants[run.variant]):
                found[run.folder] = RunOutcome(run=run, curves={}, figures=row.figures, reached=row.steps_to_reach)
        return found | self._tuning_outcomes(plan)

    def differing_starts(self, plan: Plan, outcomes: Mapping[Path, RunOutcome]) -> list[int]:
        """Seeds whose runs in `outcomes` start at another score than its runs of the seed."""
        starts = {run.seed: run.figures["start"] for run in self._results.runs}
        return sorted(
            {
                run.seed
                for run in plan.runs
                if run.folder in outcomes
                and run.seed in starts
                and abs(outcomes[run.folder].figures["start"] - starts[run.seed]) > _EQUAL
            }
        )

    def _tuning_outcomes(self, plan: Plan) -> dict[Path, RunOutcome]:
        if self._results.tuning is None:
            return {}
        measure = self._results.tuning.measure
        points = {
            (grid.variant, tuple(point.values.items())): point.by_seed
            for grid in self._results.tuning.variants
            for point in grid.grid
        }
        return {
            run.folder: RunOutcome(run=run, curves={}, figures={measure: figures[run.seed]})
            for candidate in plan.candidates
            if self._is_of(candidate, plan) and (figures := points.get(_key(candidate)))
            for run in candidate.runs
            if run.seed in figures
        }

    def _is_of(self, candidate: Candidate, plan: Plan) -> bool:
        """Whether the variant of `candidate` has the same overrides, tuned values aside."""
        own = tuple(plan.settings.variants[candidate.variant])
        theirs = self._overrides.get(candidate.variant, ())
        return theirs[: len(own)] == own and len(theirs) == len(own) + len(candidate.values)


def _key(candidate: Candidate) -> tuple[str, tuple[tuple[str, str], ...]]:
    return candidate.variant, tuple(candidate.values.items())
