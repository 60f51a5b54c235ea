"""The page of a comparison: one table of variants, one of paired tests, curves as means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from maspo_dist.compare.outcome import MEASURES, Comparison, Curve, VariantOutcome, test_cells, variant_cells
from maspo_dist.compare.statistics import mean_over_seeds
from maspo_dist.views.format import format_number, format_score
from maspo_dist.views.report.charts import Bin, Line, interval_chart, swatch
from maspo_dist.views.report.curves import Chart, Figure, caption
from maspo_dist.views.report.pages import render_page

_CHARTS = (
    Chart("Training reward", {"reward/mean": ""}),
    Chart("Policy entropy", {"policy/entropy": ""}),
    Chart("Mean gate", {"gate/mean": ""}, include=(1.0,)),
    Chart("Gradient weight kept", {"gradient/weight_kept": ""}, include=(1.0,)),
    Chart("Plain PPO clipping would cut", {"gradient/share_cut_by_ppo_clip": ""}),
    Chart("Distance from π_old", {"policy/kl_k3": ""}, include=(0.0,)),
    Chart("Largest ratio", {"ratio/max": ""}),
    Chart("Gradient norm", {"learner/grad_norm": ""}),
    Chart("Response length", {"rollout/response_tokens_mean": ""}),
)


def render_comparison(comparison: Comparison) -> str:
    """The whole page; it needs no other file."""
    plan, variants, tests = comparison.plan, comparison.variants, comparison.tests
    steps = plan.runs[0].config.run.max_steps
    measures = [measure for measure in MEASURES if any(measure in one.estimates for one in variants)]
    reach = f"steps to {format_score(comparison.reach)}"
    charts = (Chart("Held-out score", {plan.score: ""}), *_CHARTS)
    values = {
        "title": plan.folder.name,
        "lead": f"{len(plan.variants)} variants, {len(plan.seeds)} seeds, {steps} steps and "
        f"{steps * plan.runs[0].samples_per_step:,} samples per run · {plan.score}",
        "runs": len(plan.runs),
        "unfinished": [run.name for run in comparison.unfinished],
        "variant_heads": [
            "variant",
            "seeds",
            *(MEASURES[measure] for measure in measures),
            f"{reach} (seeds that did)",
            "samples to it",
        ],
        "variants": [[one.name, *variant_cells(comparison, one, measures)] for one in variants],
        "marks": [swatch(color) for color in range(len(variants))],
        "fewest": min((len(test.seeds) for test in tests), default=0),
        "tests": [test_cells(test) for test in tests],
        "figures": [figure for chart in charts if (figure := _figure(chart, variants))],
        "figure_heads": ["run", *MEASURES.values(), reach],
        "figure_rows": [
            [one.run.name, *(format_number(one.figures.get(measure)) for measure in MEASURES), format_number(step)]
            for variant in variants
            for one, step in zip(variant.runs, variant.steps_to_reach, strict=True)
        ],
        "overrides": [[name, " ".join(overrides) or "as configured"] for name, overrides in plan.variants.items()],
    }
    return render_page(Path(__file__).with_name("comparison.html"), values)


def _figure(chart: Chart, variants: Sequence[VariantOutcome]) -> Figure | None:
    (metric,) = chart.metrics
    curves = [
        (Line(label=variant.name, points=(), color=color), bins)
        for color, variant in enumerate(variants)
        if (bins := over_seeds([one.curves[metric] for one in variant.runs if metric in one.curves]))
    ]
    svg = interval_chart(curves, chart.unit, chart.include)
    legend = [(swatch(line.color), line.label) for line, _ in curves]
    return Figure(title=chart.title, svg=svg, caption=caption(chart.title, [metric]), legend=legend) if svg else None


def over_seeds(curves: Sequence[Curve]) -> list[Bin]:
    """Mean and interval at each step that every curve has."""
    if not curves:
        return []
    by_step = [dict(curve) for curve in curves]
    bins = []
    for step in (step for step in by_step[0] if all(step in curve for curve in by_step)):
        estimate = mean_over_seeds([curve[step] for curve in by_step])
        low = estimate.low if math.isfinite(estimate.low) else estimate.value
        high = estimate.high if math.isfinite(estimate.high) else estimate.value
        bins.append(Bin(first=step, last=step, mean=estimate.value, low=low, high=high))
    return bins
