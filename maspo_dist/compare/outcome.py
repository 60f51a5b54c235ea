"""Results of a comparison: the figures of every run, the mean of every variant, and the paired tests.

compare.json
    name, score, reach, against, samples_per_step
    runs[]       variant, seed, folder, steps, samples, start, final, area, entropy, gate, steps_to_reach
    unfinished[] folders
    variants[]   name, overrides, seeds, and {mean, low, high} of start, final, area, entropy and gate;
                 reached (of its seeds), steps_to_reach and samples_to_reach (mean over those that reached)
    tests[]      variant, against, measure, seeds, difference {mean, low, high}, p
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rich.table import Table

from maspo_dist.compare.plan import Plan, PlannedRun
from maspo_dist.compare.statistics import area_under_curve, first_step_at, mean_over_seeds, sign_flip_test
from maspo_dist.evaluation.results import plain_table
from maspo_dist.evaluation.statistics import Estimate
from maspo_dist.runs.folder import RunFolder
from maspo_dist.views.format import MISSING, format_count, format_number, format_score

#: Figures of a run that are averaged over seeds, and their names for people.
MEASURES = {
    "start": "start",
    "final": "final score",
    "area": "area under curve",
    "entropy": "final entropy",
    "gate": "mean gate",
}
#: Figures that the variants are tested on.
TESTED = ("final", "area")

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """One finished run.

    curves    by metric name; steps of the score's curve include 0
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
        """Of the runs that reached the score."""
        return [one.reached for one in self.runs if one.reached is not None]

    @property
    def mean_steps_to_reach(self) -> float | None:
        steps = self.steps_to_reach
        return sum(steps) / len(steps) if steps else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """`variant` − `against` over the seeds that both have; p by exact sign flips."""

    variant: str
    against: str
    measure: str
    seeds: tuple[int, ...]
    difference: Estimate
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The whole comparison. `reach` is None while no run has finished."""

    plan: Plan
    reach: float | None
    variants: Sequence[VariantOutcome]
    tests: Sequence[PairedTest]
    unfinished: Sequence[PlannedRun]


def summarise(plan: Plan, finished: Sequence[PlannedRun]) -> Comparison:
    """Reads the `finished` runs of `plan`. A run without its score counts as unfinished."""
    outcomes = [outcome for run in finished if (outcome := _read(run, plan.score)) is not None]
    by_variant = {name: [one for one in outcomes if one.run.variant == name] for name in plan.variants}
    by_variant = {name: runs for name, runs in by_variant.items() if runs}
    reach = plan.reach if plan.reach is not None or not by_variant else _half_way(by_variant)
    if reach is not None:
        by_variant = {
            name: [replace(one, reached=first_step_at(one.curves[plan.score], reach)) for one in runs]
            for name, runs in by_variant.items()
        }
    known = {outcome.run.name for outcome in outcomes}
    variants = [VariantOutcome(name=name, runs=runs) for name, runs in by_variant.items()]
    unfinished = [run for run in plan.runs if run.name not in known]
    tests = _tests(by_variant, plan.against)
    return Comparison(plan=plan, reach=reach, variants=variants, tests=tests, unfinished=unfinished)


def comparison_tree(comparison: Comparison) -> dict[str, object]:
    """The content of compare.json."""
    plan = comparison.plan
    return {
        "name": plan.folder.name,
        "score": plan.score,
        "reach": comparison.reach,
        "against": plan.against,
        "samples_per_step": plan.samples_per_step,
        "runs": [
            {
                "variant": variant.name,
                "seed": one.run.seed,
                "folder": str(one.run.folder),
                "steps": one.run.config.run.max_steps,
                "samples": one.run.samples,
                **one.figures,
                "steps_to_reach": one.reached,
            }
            for variant in comparison.variants
            for one in variant.runs
        ],
        "unfinished": [str(run.folder) for run in comparison.unfinished],
        "variants": [
            {
                "name": variant.name,
                "overrides": list(plan.variants[variant.name]),
                "seeds": [one.run.seed for one in variant.runs],
                **{measure: _estimate_tree(estimate) for measure, estimate in variant.estimates.items()},
                "reached": len(variant.steps_to_reach),
                "steps_to_reach": variant.mean_steps_to_reach,
                "samples_to_reach": plan.samples_at(variant.mean_steps_to_reach),
            }
            for variant in comparison.variants
        ],
        "tests": [asdict(test) | {"difference": _estimate_tree(test.difference)} for test in comparison.tests],
    }


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Variants with their means over seeds, then the paired tests."""
    title = f"{comparison.plan.score}, mean over seeds ± half the 95 % interval"
    reach = f"steps to {format_score(comparison.reach)}"
    table = plain_table(title, ["variant"], ["seeds", "final", "area", "entropy", reach])
    for variant in comparison.variants:
        entropy = variant.estimates.get("entropy")
        seeds, final, area, steps, _ = variant_cells(comparison, variant, TESTED)
        table.add_row(variant.name, seeds, final, area, format_score(entropy.value if entropy else None), steps)
    title = "paired over seeds, exact sign-flip test"
    tests = plain_table(title, ["variant", "against", "measure"], ["seeds", "difference", "p"])
    for test in comparison.tests:
        tests.add_row(*test_cells(test))
    return [table, tests] if comparison.tests else [table]


def variant_cells(comparison: Comparison, variant: VariantOutcome, measures: Sequence[str]) -> list[str]:
    """Seeds, each measure, steps and samples to the score."""
    steps = variant.mean_steps_to_reach
    return [
        str(len(variant.runs)),
        *(_interval_text(variant.estimates[m]) if m in variant.estimates else MISSING for m in measures),
        f"{format_number(steps)} ({len(variant.steps_to_reach)} of {len(variant.runs)})",
        format_count(comparison.plan.samples_at(steps)),
    ]


def test_cells(test: PairedTest) -> list[str]:
    """Variant, against, measure, seeds, difference, p."""
    difference = _interval_text(test.difference, "+.3f")
    return [test.variant, test.against, MEASURES[test.measure], str(len(test.seeds)), difference, f"{test.p:.4g}"]


def _interval_text(estimate: Estimate, form: str = ".3f") -> str:
    """0.512 ± 0.032, half of the 95 % interval; the mean alone where there is no interval."""
    around = f" ± {estimate.high - estimate.value:.3f}" if math.isfinite(estimate.low) else ""
    return f"{estimate.value:{form}}{around}"


def _read(run: PlannedRun, score: str) -> RunOutcome | None:
    points: dict[str, list[tuple[int, float]]] = {}
    for row in RunFolder(run.folder).read_metrics():
        for name, value in row.items():
            if name != "step" and value is not None:
                points.setdefault(name, []).append((int(row["step"]), float(value)))
    curves = {name: tuple(curve) for name, curve in points.items()}
    if score not in curves:
        return None
    scores = curves[score]
    figures = {"start": scores[0][1], "final": scores[-1][1], "area": area_under_curve(scores)}
    if entropy := curves.get("policy/entropy"):
        figures["entropy"] = entropy[-1][1]
    if gate := curves.get("gate/mean"):
        figures["gate"] = math.fsum(value for _, value in gate) / len(gate)
    return RunOutcome(run=run, curves=curves, figures=figures)


def _half_way(by_variant: Mapping[str, Sequence[RunOutcome]]) -> float:
    """Half way from the mean start of all runs to the best variant's mean end."""
    starts = [one.figures["start"] for runs in by_variant.values() for one in runs]
    ends = [math.fsum(one.figures["final"] for one in runs) / len(runs) for runs in by_variant.values()]
    return (math.fsum(starts) / len(starts) + max(ends)) / 2


def _tests(by_variant: Mapping[str, Sequence[RunOutcome]], against: str) -> list[PairedTest]:
    figures = {name: {one.run.seed: one.figures for one in runs} for name, runs in by_variant.items()}
    theirs = figures.pop(against, {})
    tests = []
    for name, ours in figures.items():
        seeds = tuple(seed for seed in ours if seed in theirs)
        for measure in TESTED if seeds else ():
            differences = [ours[seed][measure] - theirs[seed][measure] for seed in seeds]
            mean, p = mean_over_seeds(differences), sign_flip_test(differences)
            tests.append(PairedTest(variant=name, against=against, measure=measure, seeds=seeds, difference=mean, p=p))
    return tests


def _estimate_tree(estimate: Estimate) -> dict[str, float | None]:
    low, high = (estimate.low, estimate.high) if math.isfinite(estimate.low) else (None, None)
    return {"mean": estimate.value, "low": low, "high": high}
