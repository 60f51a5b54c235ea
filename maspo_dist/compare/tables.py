"""The tables of a comparison, for the console and for the page."""

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from maspo_dist.compare.outcome import MEASURES, Comparison, PairedTest, VariantOutcome
from maspo_dist.compare.plan import Plan
from maspo_dist.compare.tuning import TunedVariant
from maspo_dist.evaluation.results import plain_table
from maspo_dist.evaluation.statistics import Estimate
from maspo_dist.views.format import MISSING, format_count, format_number, format_score

TEST_HEADS = ("variant", "against", "measure", "difference", "ahead", "p", "p by Holm")

#: Columns of the console beside seeds and steps, by their short names.
_SHOWN = {
    "final": "final",
    "area": "area",
    "pass_final": "pass",
    "pass_area": "pass area",
    "reward_area": "reward area",
    "entropy": "entropy",
    "route_final": "rare route",
}


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Variants with their means over seeds, then the paired tests."""
    variants = comparison.variants
    measures = [name for name in _SHOWN if any(name in one.estimates for one in variants)]
    title = f"{comparison.plan.score}, mean over seeds ± half the 95 % interval"
    reach = f"steps to {format_score(comparison.reach)}"
    table = plain_table(title, ["variant"], ["seeds", *(_SHOWN[name] for name in measures), reach])
    for variant in variants:
        *cells, steps, _ = variant_cells(variant, measures)
        table.add_row(variant.name, *cells, steps)
    title = "paired over seeds, exact sign-flip test; Holm corrects for the variants of a measure"
    tests = plain_table(title, TEST_HEADS[:3], TEST_HEADS[3:])
    for test in comparison.tests:
        tests.add_row(*test_cells(test))
    return [table, tests] if comparison.tests else [table]


def tuning_table(plan: Plan, tuned: Sequence[TunedVariant]) -> Table:
    """Each variant's grid with its means over the tuning seeds."""
    title = f"tuning by {MEASURES[plan.settings.tune_by]}, mean over seeds {plan.settings.tune_seeds}"
    table = plain_table(title, ["variant", "values"], ["mean", "chosen"])
    for row in tuning_rows(tuned):
        # A list such as [a] would be read as markup.
        table.add_row(*map(Text, row))
    return table


def tuning_rows(tuned: Sequence[TunedVariant]) -> list[list[str]]:
    """Variant, values, mean over seeds, and of the chosen values whether they are an edge of the grid."""
    rows = []
    for one in tuned:
        for point in one.points:
            values = ", ".join(point.candidate.overrides)
            chosen = ", ".join(["chosen", *one.edges.values()]) if point is one.best else ""
            rows.append([one.variant, values, format_score(point.mean), chosen])
    return rows


def edge_sentences(tuned: Sequence[TunedVariant]) -> list[str]:
    """One sentence per tuned value that is the smallest or largest of its grid."""
    return [
        f"{one.variant}: {key}={one.best.candidate.values[key]} is the {side} value of its grid, and a value beyond it "
        f"may be better: extend the grid"
        for one in tuned
        if one.best is not None
        for key, side in one.edges.items()
    ]


def variant_cells(variant: VariantOutcome, measures: Sequence[str]) -> list[str]:
    """Seeds, each measure, steps and samples to the score."""
    steps = variant.mean_steps_to_reach
    return [
        str(len(variant.runs)),
        *(interval_text(variant.estimates[m]) if m in variant.estimates else MISSING for m in measures),
        f"{format_number(steps)} ({len(variant.steps_to_reach)} of {len(variant.runs)})",
        format_count(variant.mean_samples_to_reach),
    ]


def test_cells(test: PairedTest) -> list[str]:
    """The cells under `TEST_HEADS`."""
    difference = interval_text(test.difference, "+.3f")
    ahead = f"{test.ahead} of {len(test.seeds)}"
    p_values = f"{test.p:.4g}", f"{test.p_holm:.4g}"
    return [test.variant, test.against, MEASURES[test.measure], difference, ahead, *p_values]


def interval_text(estimate: Estimate, form: str = ".3f") -> str:
    """0.512 ± 0.032, half of the 95 % interval; the mean alone where there is no interval."""
    around = f" ± {estimate.high - estimate.value:.3f}" if math.isfinite(estimate.low) else ""
    return f"{estimate.value:{form}}{around}"
