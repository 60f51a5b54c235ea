"""Results of a comparison: the figures of every run, the mean of every variant, and the paired tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maspo_dist.compare.plan import Plan, PlannedRun
from maspo_dist.compare.route import ROUTE_SHARE, route_share
from maspo_dist.compare.statistics import area_under_curve, first_step_at, holm, mean_over_seeds, sign_flip_test
from maspo_dist.evaluation.statistics import Estimate
from maspo_dist.runs.folder import RunFolder

#: Figures of a run that are averaged over seeds, and their names for people.
MEASURES = {
    "start": "start",
    "final": "final score",
    "area": "area under curve",
    "pass_final": "final pass@k",
    "pass_area": "area of pass@k",
    "reward_area": "area of sampled reward",
    "entropy": "final entropy",
    "gate": "mean gate",
    "route_final": "final share of rare route",
    "route_area": "area of share of rare route",
}
#: Figures that the variants are tested on.
TESTED = ("final", "area", "pass_final", "pass_area", "reward_area")

REWARD = "reward/mean"

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """One finished run.

    curves    by metric name; steps of the score's curve include 0; none of a run of an earlier comparison
    figures   by name, for each name of `MEASURES` for which the run has a value
    reached   the first step at the comparison's `reach`, None if there is no such step
    """

    run: PlannedRun
    curves: Mapping[str, Curve]
    figures: Mapping[str, float]
    reached: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantOutcome:
    """One variant over its finished seeds."""

    name: str
    runs: Sequence[RunOutcome]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Means of the figures that every run has."""
        shared = [name for name in MEASURES if all(name in one.figures for one in self.runs)]
        return {name: mean_over_seeds([one.figures[name] for one in self.runs]) for name in shared}

    @property
    def steps_to_reach(self) -> list[int]:
        """The step at which each run reached the score, without the runs that did not reach it."""
        return [one.reached for one in self.runs if one.reached is not None]

    @property
    def mean_steps_to_reach(self) -> float | None:
        steps = self.steps_to_reach
        return sum(steps) / len(steps) if steps else None

    @property
    def samples_per_step(self) -> int:
        return self.runs[0].run.samples_per_step

    @property
    def mean_samples_to_reach(self) -> float | None:
        steps = self.mean_steps_to_reach
        return None if steps is None else steps * self.samples_per_step


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """`variant` − `against` over the seeds that both have.

    ahead    number of the seeds where `variant` has the larger figure
    p        by exact sign flips
    p_holm   p by Holm's correction for all variants that are tested on this measure
    """

    variant: str
    against: str
    measure: str
    seeds: tuple[int, ...]
    difference: Estimate
    ahead: int
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The whole comparison. `reach` is None while no run has finished."""

    plan: Plan
    reach: float | None
    variants: Sequence[VariantOutcome]
    tests: Sequence[PairedTest]
    unfinished: Sequence[PlannedRun]


def summarise(plan: Plan, finished: Mapping[Path, RunOutcome | None]) -> Comparison:
    """The comparison of the runs of `plan` that are `finished`, by folder. A run without its score is unfinished."""
    outcomes = [outcome for run in plan.runs if (outcome := finished.get(run.folder)) is not None]
    by_variant = {name: [one for one in outcomes if one.run.variant == name] for name in plan.variants}
    by_variant = {name: runs for name, runs in by_variant.items() if runs}
    reach = plan.reach if plan.reach is not None or not by_variant else _half_way(by_variant)
    if reach is not None:
        by_variant = {
            name: [
                replace(one, reached=first_step_at(one.curves[plan.score], reach)) if one.curves else one
                for one in runs
            ]
            for name, runs in by_variant.items()
        }
    known = {outcome.run.name for outcome in outcomes}
    variants = [VariantOutcome(name=name, runs=runs) for name, runs in by_variant.items()]
    unfinished = [run for run in plan.runs if run.name not in known]
    tests = _tests(by_variant, plan.against)
    return Comparison(plan=plan, reach=reach, variants=variants, tests=tests, unfinished=unfinished)


def read_outcome(run: PlannedRun, plan: Plan) -> RunOutcome | None:
    """Reads the folder of a run that has finished; None for a run without the score of `plan`."""
    folder = RunFolder(run.folder)
    points: dict[str, list[tuple[int, float]]] = {}
    for row in folder.read_metrics():
        for name, value in row.items():
            if name != "step" and value is not None:
                points.setdefault(name, []).append((int(row["step"]), float(value)))
    curves = {name: tuple(curve) for name, curve in points.items()}
    if plan.score not in curves:
        return None
    if route := route_share(run.config.model.path, folder):
        curves[ROUTE_SHARE] = route
    scores = curves[plan.score]
    figures = {"start": scores[0][1], "final": scores[-1][1], "area": area_under_curve(scores)}
    if passes := curves.get(plan.pass_score or ""):
        figures |= {"pass_final": passes[-1][1], "pass_area": area_under_curve(passes)}
    if rewards := curves.get(REWARD):
        figures["reward_area"] = area_under_curve(rewards)
    if entropy := curves.get("policy/entropy"):
        figures["entropy"] = entropy[-1][1]
    if gate := curves.get("gate/mean"):
        figures["gate"] = math.fsum(value for _, value in gate) / len(gate)
    if route:
        figures |= {"route_final": route[-1][1], "route_area": area_under_curve(route)}
    return RunOutcome(run=run, curves=curves, figures=figures)


def _half_way(by_variant: Mapping[str, Sequence[RunOutcome]]) -> float:
    """Half way from the mean start of all runs to the best variant's mean end."""
    starts = [one.figures["start"] for runs in by_variant.values() for one in runs]
    ends = [math.fsum(one.figures["final"] for one in runs) / len(runs) for runs in by_variant.values()]
    return (math.fsum(starts) / len(starts) + max(ends)) / 2


def _tests(by_variant: Mapping[str, Sequence[RunOutcome]], against: str) -> list[PairedTest]:
    """By variant, then by measure."""
    figures = {name: {one.run.seed: one.figures for one in runs} for name, runs in by_variant.items()}
    theirs = figures.pop(against, {})
    tests: dict[tuple[str, str], PairedTest] = {}
    for measure in TESTED:
        tested = {}
        for name, ours in figures.items():
            seeds = tuple(seed for seed in ours if measure in ours[seed] and measure in theirs.get(seed, ()))
            if not seeds:
                continue
            differences = [ours[seed][measure] - theirs[seed][measure] for seed in seeds]
            p = sign_flip_test(differences)
            tested[name] = PairedTest(
                variant=name,
                against=against,
                measure=measure,
                seeds=seeds,
                difference=mean_over_seeds(differences),
                ahead=sum(difference > 0 for difference in differences),
                p=p,
                p_holm=p,
            )
        corrected = holm([test.p for test in tested.values()])
        for (name, test), p in zip(tested.items(), corrected, strict=True):
            tests[name, measure] = replace(test, p_holm=p)
    return [tests[name, measure] for name in figures for measure in TESTED if (name, measure) in tests]
