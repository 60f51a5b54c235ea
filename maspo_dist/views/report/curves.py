"""The curves of a report: which metrics share a chart, and in which order the charts stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maspo_dist.runs.catalogue import find_metric, held_out_score
from maspo_dist.runs.progress import PHASES
from maspo_dist.views.format import format_number
from maspo_dist.views.report.charts import COLORS, Line, line_chart, stacked_chart, swatch
from maspo_dist.views.report.runs import Run

_MIN_STEPS_TO_SMOOTH = 20


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart of metrics that share a unit.

    metrics   label by metric name
    include   values that the axis must reach
    smooth    draw a running mean over the raw curve
    """

    title: str
    metrics: Mapping[str, str]
    include: tuple[float, ...] = ()
    log: bool = False
    smooth: bool = False

    @property
    def unit(self) -> str:
        """Of the first metric, from the catalogue."""
        metric = find_metric(next(iter(self.metrics)))
        return (metric.unit if metric else "value") + (", logarithmic" if self.log else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart as the page shows it. `svg` and the marks of `legend` are HTML, all else is text.

    caption   (text, tooltip) of each part
    now       the last value, where the chart has one curve
    legend    (mark, text); an empty mark makes the text a note
    """

    title: str
    svg: str
    caption: Sequence[tuple[str, str]] = ()
    note: str = ""
    now: str = ""
    legend: Sequence[tuple[str, str]] = ()


LEARNING = (
    Chart("Training reward", {"reward/mean": "mean"}, smooth=True),
    Chart("Response length", {"rollout/response_tokens_mean": "mean"}),
    Chart(
        "Cut off or unverifiable",
        {"rollout/truncated_share": "truncated", "reward/unverifiable_share": "unverifiable"},
        include=(0.0,),
    ),
    Chart("Policy entropy", {"policy/entropy": "entropy"}),
    Chart("Gradient norm", {"learner/grad_norm": "norm"}, smooth=True),
)
TRUST_REGION = (
    Chart("Probability ratio", {"ratio/max": "largest", "ratio/mean": "mean", "ratio/min": "smallest"}, log=True),
    Chart("Distance from π_old", {"policy/kl_k3": "k3", "policy/kl_k1": "k1"}, include=(0.0,)),
    Chart("Mean gate", {"gate/mean": "mean"}, include=(1.0,)),
    Chart(
        "Gated tokens",
        {"gate/share_below_0.99": "gate < 0.99", "gate/share_below_0.5": "gate < 0.5"},
        include=(0.0,),
    ),
    Chart(
        "Gradient weight kept",
        {
            "gradient/weight_kept": "by this loss",
            "gradient/weight_kept_by_ppo_clip": "by plain PPO clipping, for comparison",
        },
        include=(1.0,),
    ),
    Chart("Plain PPO clipping would cut", {"gradient/share_cut_by_ppo_clip": "tokens"}, include=(0.0,)),
    Chart(
        "Mass clamps that bind",
        {"gate/share_mass_at_sigma_base": "at σ_base", "gate/share_mass_at_sigma_max": "at σ_max"},
        include=(0.0,),
    ),
    Chart(
        "Risk clamps that bind",
        {"gate/share_risk_at_min": "at risk_min", "gate/share_risk_at_max": "at risk_max"},
        include=(0.0,),
    ),
)
SPEED_AND_SYNC = (
    Chart("Engine against learner", {"sync/max_logprob_gap": "gap"}, log=True),
    Chart("Policy age", {"policy/age_mean": "mean", "policy/age_max": "largest"}, include=(0.0, 1.0)),
    Chart("Throughput", {"rollout/tokens_per_s": "rollout", "learner/tokens_per_s": "learner"}, include=(0.0,)),
)


def eval_charts(runs: Sequence[Run]) -> tuple[Chart, ...]:
    """One chart per held-out set, avg@k and pass@k together."""
    measures: dict[str, dict[str, str]] = {}
    for name in _metric_names(runs):
        if score := held_out_score(name):
            measures.setdefault(score.set_name, {})[name] = score.measure
    return tuple(Chart(f"Held-out: {name}", metrics) for name, metrics in measures.items())


def other_charts(runs: Sequence[Run], drawn: Iterable[Chart]) -> tuple[Chart, ...]:
    """One chart for each metric that `drawn`, the phases and the trust region do not show."""
    seen = {name for chart in drawn for name in chart.metrics}
    seen |= {f"time/{phase}_s" for phase in (*PHASES, "step")}
    rest = sorted(name for name in _metric_names(runs) if name not in seen and not name.startswith("trust_region/"))
    return tuple(Chart(name, {name: name}) for name in rest)


def draw(charts: Iterable[Chart], runs: Sequence[Run]) -> list[Figure]:
    """Figures of the charts that have data."""
    return [figure for chart in charts if (figure := _figure(chart, runs))]


def draw_phases(run: Run, title: str) -> list[Figure]:
    """Seconds of each phase, stacked, with the whole step as a line, since phases may overlap."""
    layers = [
        Line(label=phase, points=run.series.get(f"time/{phase}_s", ()), color=index)
        for index, phase in enumerate(PHASES)
    ]
    whole = run.series.get("time/step_s")
    total = Line(label="whole step", points=whole, color=COLORS - 1) if whole else None
    svg = stacked_chart(layers, total, "seconds per step")
    if not svg:
        return []
    legend = [(_box(f"background:var(--s{layer.color})"), layer.label) for layer in layers]
    if total:
        legend.append((_box("height:2px;background:var(--ink)"), total.label))
    return [Figure(title=title, svg=svg, caption=[("time/*_s", "")], now=_last(run, "time/step_s"), legend=legend)]


def caption(title: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """The metrics of a chart, explained by the catalogue: in the text for one metric, as tooltips for several."""
    meanings = {name: metric.meaning if (metric := find_metric(name)) else "" for name in names}
    if len(names) > 1:
        return list(meanings.items())
    return [(": ".join(part for part in (name, meaning) if part != title), "") for name, meaning in meanings.items()]


def _figure(chart: Chart, runs: Sequence[Run]) -> Figure | None:
    lines = _lines(chart, runs)
    steps = max((len(line.points) for line in lines), default=0)
    window = max(5, steps // 20) if chart.smooth and steps >= _MIN_STEPS_TO_SMOOTH else 0
    svg = line_chart(lines, chart.unit, log=chart.log, include=chart.include, smooth=window)
    if not svg:
        return None
    names = [name for name in chart.metrics if any(name in run.series for run in runs)]
    return Figure(
        title=chart.title,
        svg=svg,
        caption=caption(chart.title, names),
        note=f"; bold: mean of {window} steps" if window else "",
        now=_last(runs[0], next(iter(chart.metrics))) if len(runs) == 1 and len(lines) == 1 else "",
        legend=_legend(chart, runs, lines) if len(lines) > 1 else (),
    )


def _legend(chart: Chart, runs: Sequence[Run], lines: Sequence[Line]) -> list[tuple[str, str]]:
    if len(runs) == 1:
        return [(swatch(line.color), line.label) for line in lines]
    legend = [(swatch(place), run.name) for place, run in enumerate(runs)]
    if any(line.dashed for line in lines):
        first, *others = chart.metrics.values()
        legend.append(("", f"solid {first}, dashed {' and '.join(others)}"))
    return legend


def _lines(chart: Chart, runs: Sequence[Run]) -> list[Line]:
    """Colours stand for metrics where there is one run, else for runs; dashes then tell metrics apart."""
    lines = []
    for place, run in enumerate(runs):
        for index, (name, label) in enumerate(chart.metrics.items()):
            if name not in run.series:
                continue
            several = len(chart.metrics) > 1
            text = label if len(runs) == 1 else f"{run.name}, {label}" if several else run.name
            color, dashed = (index, False) if len(runs) == 1 else (place, index > 0)
            lines.append(Line(label=text, points=run.series[name], color=color, dashed=dashed))
    return lines


def _box(style: str) -> str:
    return f'<i class="box" style="{style}"></i>'


def _last(run: Run, name: str) -> str:
    values = [value for _, value in run.series.get(name, ()) if value is not None]
    return format_number(values[-1]) if values else ""


def _metric_names(runs: Sequence[Run]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for run in runs for name in run.series))
