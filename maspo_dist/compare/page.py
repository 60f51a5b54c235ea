"""The page of a comparison: one table of variants, one of paired tests, curves as means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from maspo_dist.compare.outcome import MEASURES, Comparison, Curve, VariantOutcome, test_cells, variant_cells
from maspo_dist.compare.statistics import mean_over_seeds
from maspo_dist.views.format import format_number, format_score
from maspo_dist.views.report.charts import Bin, Line, interval_chart, swatch
from maspo_dist.views.report.markup import escape
from maspo_dist.views.report.style import CSS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A metric that is drawn; `include` are values that the axis must reach."""

    metric: str
    title: str
    unit: str
    include: tuple[float, ...] = ()


_CHARTS = (
    _Drawn(metric="reward/mean", title="Training reward", unit="reward"),
    _Drawn(metric="policy/entropy", title="Policy entropy", unit="nats a token"),
    _Drawn(metric="gate/mean", title="Mean gate", unit="weight, 1 is ungated", include=(1.0,)),
    _Drawn(metric="gradient/weight_kept", title="Gradient weight kept", unit="share of Σ|A|·ρ", include=(1.0,)),
    _Drawn(metric="gradient/share_cut_by_ppo_clip", title="Plain PPO clipping would cut", unit="share of tokens"),
    _Drawn(metric="policy/kl_k3", title="Distance from π_old", unit="KL k3, nats a token", include=(0.0,)),
    _Drawn(metric="ratio/max", title="Largest ratio", unit="π / π_old"),
    _Drawn(metric="learner/grad_norm", title="Gradient norm", unit="L2 norm before clipping"),
    _Drawn(metric="rollout/response_tokens_mean", title="Response length", unit="tokens a response"),
)


def render_comparison(comparison: Comparison) -> str:
    """The whole page; it needs no other file."""
    plan = comparison.plan
    name = escape(plan.folder.name)
    score = _Drawn(metric=plan.score, title="Held-out score", unit="share solved")
    figures = "".join(_figure(chart, comparison.variants) for chart in (score, *_CHARTS))
    steps = plan.runs[0].config.run.max_steps
    samples = steps * plan.runs[0].samples_per_step
    lead = (
        f"{len(plan.variants)} variants, {len(plan.seeds)} seeds, {steps} steps and {samples:,} samples a run · "
        f"{escape(plan.score)}"
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name}</title><style>{CSS}</style></head>\n<body><main>"
        f'<h1>{name}</h1><p class="lead">{lead}</p>{_unfinished(comparison)}'
        f"{_variants(comparison)}<h2>Paired tests</h2>{_tests(comparison)}"
        f'<h2>Curves</h2><p class="note">Mean over seeds; the band is its 95 % interval (Student).</p>'
        f'<div class="charts">{figures}</div><h2>Runs</h2>{_runs(comparison)}<h2>Variants</h2>{_overrides(comparison)}'
        f"<footer>Made by maspo-dist, {made}. Point at a curve for its numbers.</footer></main></body></html>\n"
    )


def _unfinished(comparison: Comparison) -> str:
    if not comparison.unfinished:
        return ""
    left = ", ".join(escape(run.name) for run in comparison.unfinished)
    return f'<p class="down">{len(comparison.unfinished)} of {len(comparison.plan.runs)} runs are missing: {left}</p>'


def _variants(comparison: Comparison) -> str:
    measures = [measure for measure in MEASURES if any(measure in one.estimates for one in comparison.variants)]
    reach = f"steps to {format_score(comparison.reach)} (seeds that did)"
    heads = ["variant", "seeds", *(MEASURES[measure] for measure in measures), reach, "samples to it"]
    rows = [
        [f"{swatch(color)}{escape(one.name)}", *map(escape, variant_cells(comparison, one, measures))]
        for color, one in enumerate(comparison.variants)
    ]
    return _table(heads, rows)


def _tests(comparison: Comparison) -> str:
    if not comparison.tests:
        return '<p class="note">None: they need the same seeds of two variants.</p>'
    fewest = min(len(test.seeds) for test in comparison.tests)
    note = (
        f"Exact sign-flip permutation test over seeds, two-sided. With {fewest} seeds no p can be below "
        f"{2 / 2**fewest:.4g}; nothing is corrected for the number of tests. ± is half of the 95 % interval (Student)."
    )
    rows = [[escape(test.variant), escape(test.against), *map(escape, test_cells(test))] for test in comparison.tests]
    return f'<p class="note">{note}</p>' + _table(["variant", "against", "measure", "seeds", "difference", "p"], rows)


def _runs(comparison: Comparison) -> str:
    rows = [
        [
            escape(one.run.name),
            *(format_number(one.figures.get(measure)) for measure in MEASURES),
            format_number(step),
        ]
        for variant in comparison.variants
        for one, step in zip(variant.runs, variant.steps_to_reach, strict=True)
    ]
    return _table(["run", *MEASURES.values(), f"steps to {format_score(comparison.reach)}"], rows)


def _overrides(comparison: Comparison) -> str:
    rows = [
        [escape(name), escape(" ".join(overrides)) or "as configured"]
        for name, overrides in comparison.plan.variants.items()
    ]
    body = "".join(f'<tr><td>{name}</td><td class="words mono">{text}</td></tr>' for name, text in rows)
    return f'<div class="panel scroll fit"><table>{body}</table></div>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="panel scroll fit"><table><tr>{head}</tr>{body}</table></div>'


def _figure(chart: _Drawn, variants: Sequence[VariantOutcome]) -> str:
    curves = [
        (Line(label=variant.name, points=(), color=color), bins)
        for color, variant in enumerate(variants)
        if (bins := over_seeds([one.curves[chart.metric] for one in variant.runs if chart.metric in one.curves]))
    ]
    svg = interval_chart(curves, chart.unit, chart.include)
    if not svg:
        return ""
    legend = "".join(f"<span>{swatch(line.color)}{escape(line.label)}</span>" for line, _ in curves)
    return (
        f'<figure><div class="head"><h3>{escape(chart.title)}</h3></div>'
        f'<figcaption class="mono">{escape(chart.metric)}</figcaption><div class="legend">{legend}</div>{svg}</figure>'
    )


def over_seeds(curves: Sequence[Curve]) -> list[Bin]:
    """Mean and interval at each step that every curve has."""
    if not curves:
        return []
    by_step = [dict(curve) for curve in curves]
    shared = [step for step in by_step[0] if all(step in curve for curve in by_step)]
    bins = []
    for step in shared:
        estimate = mean_over_seeds([curve[step] for curve in by_step])
        low = estimate.low if math.isfinite(estimate.low) else estimate.mean
        high = estimate.high if math.isfinite(estimate.high) else estimate.mean
        bins.append(Bin(first=step, last=step, mean=estimate.mean, low=low, high=high))
    return bins
