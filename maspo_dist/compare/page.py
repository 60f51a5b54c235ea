"""The page of a comparison: tables of variants, paired tests and tuning, curves as means over seeds."""

import math
from collections.abc import Sequence
from pathlib import Path

from maspo_dist.compare.outcome import MEASURES, REWARD, Comparison, Curve, VariantOutcome
from maspo_dist.compare.route import ROUTE_SHARE
from maspo_dist.compare.statistics import mean_over_seeds
from maspo_dist.compare.tables import TEST_HEADS, edge_sentences, test_cells, tuning_rows, variant_cells
from maspo_dist.compare.tuning import TunedVariant
from maspo_dist.views.format import format_number, format_score
from maspo_dist.views.report.charts import COLORS, Bin, Line, line_chart
from maspo_dist.views.report.curves import Chart, Figure, caption
from maspo_dist.views.report.page import render_page

_CHARTS = (
    Chart("Training reward", {REWARD: ""}),
    Chart("Share of the rare route", {ROUTE_SHARE: ""}, [0]),
    Chart("Policy entropy", {"policy/entropy": ""}),
    Chart("Mean gate", {"gate/mean": ""}, [1]),
    Chart("Gradient weight kept", {"gradient/weight_kept": ""}, [1]),
    Chart("Plain PPO clipping would cut", {"gradient/share_cut_by_ppo_clip": ""}),
    Chart("Distance from π_old", {"policy/kl_k3": ""}, [0]),
    Chart("Largest ratio", {"ratio/max": ""}),
    Chart("Gradient norm", {"learner/grad_norm": ""}),
    Chart("Response length", {"rollout/response_tokens_mean": ""}),
)


def render_comparison(comparison: Comparison, tuned: Sequence[TunedVariant] = ()) -> str:
    """The whole page; it needs no other file."""
    plan, variants, tests = comparison.plan, comparison.variants, comparison.tests
    steps = " or ".join(map(str, sorted({run.config.run.max_steps for run in plan.runs})))
    measures = [measure for measure in MEASURES if any(measure in one.estimates for one in variants)]
    reach = f"steps to {format_score(comparison.reach)}"
    passes = [Chart("Held-out pass@k", {plan.pass_score: ""})] if plan.pass_score else []
    charts = (Chart("Held-out score", {plan.score: ""}), *passes, *_CHARTS)
    values = {
        "title": plan.folder.name,
        "lead": f"{len(plan.variants)} variants, {len(plan.seeds)} seeds, {steps} steps and "
        f"{plan.runs[0].samples:,} samples per run · {plan.score}",
        "runs": len(plan.runs),
        "unfinished": [run.name for run in comparison.unfinished],
        "heads": ["variant", "seeds", *map(MEASURES.get, measures), f"{reach} (seeds that did)", "samples to it"],
        "variants": [[one.name, *variant_cells(one, measures)] for one in variants],
        "marks": [f"key s{color % COLORS}" for color in range(len(variants))],
        "fewest": min((len(test.seeds) for test in tests), default=0),
        "test_heads": TEST_HEADS,
        "tests": [test_cells(test) for test in tests],
        "tuned_by": MEASURES[plan.settings.tune_by],
        "tune_seeds": plan.settings.tune_seeds,
        "tuning": tuning_rows(tuned),
        "edges": edge_sentences(tuned),
        "without_curves": sum(not one.curves for variant in variants for one in variant.runs),
        "figures": [figure for chart in charts if (figure := _figure(chart, variants))],
        "figure_heads": ["run", *MEASURES.values(), reach],
        "figure_rows": [
            [one.run.name, *(format_number(one.figures.get(name)) for name in MEASURES), format_number(one.reached)]
            for variant in variants
            for one in variant.runs
        ],
        "overrides": [[name, " ".join(overrides) or "as configured"] for name, overrides in plan.variants.items()],
    }
    return render_page(Path(__file__).with_name("comparison.html"), values)


def _figure(chart: Chart, variants: Sequence[VariantOutcome]) -> Figure | None:
    (metric,) = chart.metrics
    lines = [
        Line(label=variant.name, bins=bins, color=color)
        for color, variant in enumerate(variants)
        if (bins := over_seeds([one.curves[metric] for one in variant.runs if metric in one.curves]))
    ]
    svg = line_chart(lines, chart.unit, include=chart.include)
    legend = [(f"key s{line.color % COLORS}", line.label) for line in lines]
    return Figure(title=chart.title, svg=svg, caption=caption(chart.title, [metric]), legend=legend) if svg else None


def over_seeds(curves: Sequence[Curve]) -> list[Bin]:
    """Mean and interval at each step that every curve has."""
    by_step = [dict(curve) for curve in curves]
    bins = []
    for step in by_step[0] if by_step else ():
        if all(step in curve for curve in by_step):
            one = mean_over_seeds([curve[step] for curve in by_step])
            low, high = (one.low, one.high) if math.isfinite(one.low) else (one.value, one.value)
            bins.append(Bin(first=step, last=step, mean=one.value, low=low, high=high))
    return bins
