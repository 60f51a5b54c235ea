"""Results of a comparison: the figures of every run, the mean of every variant, and the paired tests.

compare.json
    name, score, reach, against, samples_per_step
    runs[]       variant, seed, folder, state, steps, samples, start, final, area, steps_to_reach, entropy, gate
    variants[]   name, overrides, seeds, and {mean, low, high} of start, final, area, entropy and gate;
                 reached (of its seeds), steps_to_reach and samples_to_reach (mean over those that reached)
    tests[]      variant, against, measure, seeds, difference {mean, low, high}, p
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from maspo_dist.compare.plan import Plan, PlannedRun
from maspo_dist.compare.statistics import area_under_curve, first_step_at, mean_over_seeds, sign_flip_test
from maspo_dist.evaluation.statistics import Estimate
from maspo_dist.runs.folder import RunFolder
from maspo_dist.views.format import MISSING, format_count, format_number, format_score

#: Figures of a run that are averaged over seeds, and what they are called.
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
    """One finished run. `curves` by metric name; steps of the score's curve include 0."""

    run: PlannedRun
    curves: Mapping[str, Curve]
    score: Curve

    @property
    def figures(self) -> dict[str, float]:
        """By the names of `MEASURES`; a figure that the run does not have is left out."""
        figures = {"start": self.score[0][1], "final": self.score[-1][1], "area": area_under_curve(self.score)}
        if entropy := self.curves.get("policy/entropy"):
            figures["entropy"] = entropy[-1][1]
        if gate := self.curves.get("gate/mean"):
            figures["gate"] = math.fsum(value for _, value in gate) / len(gate)
        return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantOutcome:
    """One variant over its finished seeds."""

    name: str
    runs: Sequence[RunOutcome]
    estimates: Mapping[str, Estimate]
    steps_to_reach: Sequence[int | None]

    @property
    def reached(self) -> list[int]:
        return [step for step in self.steps_to_reach if step is not None]

    @property
    def mean_steps_to_reach(self) -> float | None:
        return sum(self.reached) / len(self.reached) if self.reached else None


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
    known = {outcome.run.name for outcome in outcomes}
    by_variant = {name: [one for one in outcomes if one.run.variant == name] for name in plan.variants}
    by_variant = {name: runs for name, runs in by_variant.items() if runs}
    reach = plan.reach if plan.reach is not None else _half_way(by_variant)
    variants = [
        VariantOutcome(
            name=name,
            runs=runs,
            estimates=_estimates(runs),
            steps_to_reach=[first_step_at(one.score, reach) for one in runs] if reach is not None else [],
        )
        for name, runs in by_variant.items()
    ]
    return Comparison(
        plan=plan,
        reach=reach,
        variants=variants,
        tests=_tests(variants, plan.against),
        unfinished=[run for run in plan.runs if run.name not in known],
    )


def comparison_tree(comparison: Comparison) -> dict[str, object]:
    """As it stands in compare.json."""
    plan = comparison.plan
    samples_per_step = plan.runs[0].samples_per_step
    return {
        "name": plan.folder.name,
        "score": plan.score,
        "reach": comparison.reach,
        "against": plan.against,
        "samples_per_step": samples_per_step,
        "runs": [
            {
                "variant": variant.name,
                "seed": one.run.seed,
                "folder": str(one.run.folder),
                "steps": one.run.config.run.max_steps,
                "samples": one.run.config.run.max_steps * samples_per_step,
                **one.figures,
                "steps_to_reach": step,
            }
            for variant in comparison.variants
            for one, step in zip(variant.runs, variant.steps_to_reach, strict=True)
        ],
        "unfinished": [str(run.folder) for run in comparison.unfinished],
        "variants": [
            {
                "name": variant.name,
                "overrides": list(plan.variants[variant.name]),
                "seeds": [one.run.seed for one in variant.runs],
                **{measure: _estimate_tree(estimate) for measure, estimate in variant.estimates.items()},
                "reached": len(variant.reached),
                "steps_to_reach": variant.mean_steps_to_reach,
                "samples_to_reach": _times(variant.mean_steps_to_reach, samples_per_step),
            }
            for variant in comparison.variants
        ],
        "tests": [
            {
                "variant": test.variant,
                "against": test.against,
                "measure": test.measure,
                "seeds": list(test.seeds),
                "difference": _estimate_tree(test.difference),
                "p": test.p,
            }
            for test in comparison.tests
        ],
    }


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Variants with their means over seeds, then the paired tests."""
    table = _table(f"{comparison.plan.score}, mean over seeds ± half the 95 % interval")
    reach = f"steps to {format_score(comparison.reach)}"
    for head in ("variant", "seeds", "final", "area", "entropy", reach):
        table.add_column(head, justify="left" if head == "variant" else "right", no_wrap=True)
    for variant in comparison.variants:
        entropy = variant.estimates.get("entropy")
        seeds, final, area, steps, _ = variant_cells(comparison, variant, TESTED)
        table.add_row(variant.name, seeds, final, area, format_score(entropy.value if entropy else None), steps)
    tests = _table("paired over seeds, exact sign-flip test")
    for head in ("variant", "against", "measure", "seeds", "difference", "p"):
        tests.add_column(head, justify="left" if head in ("variant", "against", "measure") else "right", no_wrap=True)
    for test in comparison.tests:
        tests.add_row(test.variant, test.against, *test_cells(test))
    return [table, tests] if comparison.tests else [table]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def variant_cells(comparison: Comparison, variant: VariantOutcome, measures: Sequence[str]) -> list[str]:
    """Seeds, each measure, steps and samples to the score."""
    steps = variant.mean_steps_to_reach
    samples = _times(steps, comparison.plan.runs[0].samples_per_step)
    reached = f"{format_number(steps)} ({len(variant.reached)} of {len(variant.runs)})"
    return [
        str(len(variant.runs)),
        *(interval_text(variant.estimates[m]) if m in variant.estimates else MISSING for m in measures),
        reached,
        format_count(samples),
    ]


def test_cells(test: PairedTest) -> list[str]:
    """Measure, seeds, difference, p."""
    return [MEASURES[test.measure], str(len(test.seeds)), interval_text(test.difference, "+.3f"), f"{test.p:.4g}"]


def interval_text(estimate: Estimate, form: str = ".3f") -> str:
    """0.512 ± 0.032, half of the 95 % interval; the mean alone where there is none."""
    if not math.isfinite(estimate.low):
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ± {estimate.high - estimate.value:.3f}"


def _read(run: PlannedRun, score: str) -> RunOutcome | None:
    points: dict[str, list[tuple[int, float]]] = {}
    for row in RunFolder(run.folder).read_metrics():
        for name, value in row.items():
            if name != "step" and value is not None:
                points.setdefault(name, []).append((int(row["step"]), float(value)))
    curves = {name: tuple(curve) for name, curve in points.items()}
    return RunOutcome(run=run, curves=curves, score=curves[score]) if score in curves else None


def _half_way(by_variant: Mapping[str, Sequence[RunOutcome]]) -> float | None:
    """Half way from where runs start, on average, to the best variant's mean end."""
    if not by_variant:
        return None
    starts = [one.figures["start"] for runs in by_variant.values() for one in runs]
    ends = [math.fsum(one.figures["final"] for one in runs) / len(runs) for runs in by_variant.values()]
    return (math.fsum(starts) / len(starts) + max(ends)) / 2


def _estimates(runs: Sequence[RunOutcome]) -> dict[str, Estimate]:
    figures = [one.figures for one in runs]
    shared = [measure for measure in MEASURES if all(measure in one for one in figures)]
    return {measure: mean_over_seeds([one[measure] for one in figures]) for measure in shared}


def _tests(variants: Sequence[VariantOutcome], against: str) -> list[PairedTest]:
    by_name = {variant.name: {one.run.seed: one.figures for one in variant.runs} for variant in variants}
    if against not in by_name:
        return []
    tests = []
    for name, ours in by_name.items():
        theirs = by_name[against]
        seeds = tuple(seed for seed in ours if seed in theirs)
        if name == against or not seeds:
            continue
        for measure in TESTED:
            differences = [ours[seed][measure] - theirs[seed][measure] for seed in seeds]
            tests.append(
                PairedTest(
                    variant=name,
                    against=against,
                    measure=measure,
                    seeds=seeds,
                    difference=mean_over_seeds(differences),
                    p=sign_flip_test(differences),
                )
            )
    return tests


def _estimate_tree(estimate: Estimate) -> dict[str, float | None]:
    bounds = {"low": estimate.low, "high": estimate.high}
    return {"mean": estimate.value, **{name: value if math.isfinite(value) else None for name, value in bounds.items()}}


def _times(steps: float | None, samples_per_step: int) -> float | None:
    return None if steps is None else steps * samples_per_step
