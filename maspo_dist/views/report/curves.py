"""Which metrics are drawn, how, and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from maspo_dist.runs.progress import PHASES
from maspo_dist.views.format import format_number
from maspo_dist.views.report.charts import COLORS, Line, line_chart, stacked_chart, swatch
from maspo_dist.views.report.markup import escape
from maspo_dist.views.report.runs import Run

_EVAL_METRIC = re.compile(r"eval/([^/]+)/((?:avg|pass)@\d+)")
_MIN_STEPS_TO_SMOOTH = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart: metrics (name, label) that share a unit.

    include   values that the axis must reach
    smooth    draw a running mean over the raw curve
    """

    title: str
    unit: str
    metrics: tuple[tuple[str, str], ...]
    log: bool = False
    include: tuple[float, ...] = ()
    smooth: bool = False


LEARNING = (
    Chart(title="Training reward", unit="reward", metrics=(("reward/mean", "mean"),), smooth=True),
    Chart(title="Response length", unit="tokens a response", metrics=(("rollout/response_tokens_mean", "mean"),)),
    Chart(
        title="Cut off or unverifiable",
        unit="share of responses",
        metrics=(("rollout/truncated_share", "truncated"), ("reward/unverifiable_share", "unverifiable")),
        include=(0.0,),
    ),
    Chart(title="Policy entropy", unit="nats a token", metrics=(("policy/entropy", "entropy"),)),
    Chart(title="Gradient norm", unit="L2 norm before clipping", metrics=(("learner/grad_norm", "norm"),), smooth=True),
)

TRUST_REGION = (
    Chart(
        title="Probability ratio",
        unit="π / π_old, logarithmic",
        metrics=(("ratio/max", "largest"), ("ratio/mean", "mean"), ("ratio/min", "smallest")),
        log=True,
    ),
    Chart(
        title="Distance from π_old",
        unit="KL, nats a token",
        metrics=(("policy/kl_k3", "k3"), ("policy/kl_k1", "k1")),
        include=(0.0,),
    ),
    Chart(title="Mean gate", unit="weight, 1 is ungated", metrics=(("gate/mean", "mean"),), include=(1.0,)),
    Chart(
        title="Gated tokens",
        unit="share of tokens",
        metrics=(("gate/share_below_0.99", "gate < 0.99"), ("gate/share_below_0.5", "gate < 0.5")),
        include=(0.0,),
    ),
    Chart(
        title="Gradient weight kept",
        unit="share of Σ|A|·ρ",
        metrics=(
            ("gradient/weight_kept", "by this loss"),
            ("gradient/weight_kept_by_ppo_clip", "by plain PPO clipping, for comparison"),
        ),
        include=(1.0,),
    ),
    Chart(
        title="Plain PPO clipping would cut",
        unit="share of tokens",
        metrics=(("gradient/share_cut_by_ppo_clip", "tokens"),),
        include=(0.0,),
    ),
    Chart(
        title="Mass clamps that bind",
        unit="share of gated tokens",
        metrics=(("gate/share_mass_at_sigma_base", "at σ_base"), ("gate/share_mass_at_sigma_max", "at σ_max")),
        include=(0.0,),
    ),
    Chart(
        title="Risk clamps that bind",
        unit="share of gated tokens",
        metrics=(("gate/share_risk_at_min", "at risk_min"), ("gate/share_risk_at_max", "at risk_max")),
        include=(0.0,),
    ),
)

SPEED_AND_SYNC = (
    Chart(
        title="Engine against learner",
        unit="largest |Δ logprob|, nats, logarithmic",
        metrics=(("sync/max_logprob_gap", "gap"),),
        log=True,
    ),
    Chart(
        title="Policy age",
        unit="policy versions",
        metrics=(("policy/age_mean", "mean"), ("policy/age_max", "largest")),
        include=(0.0, 1.0),
    ),
    Chart(
        title="Throughput",
        unit="tokens/s",
        metrics=(("rollout/tokens_per_s", "rollout"), ("learner/tokens_per_s", "learner")),
        include=(0.0,),
    ),
)


def eval_charts(runs: Sequence[Run]) -> tuple[Chart, ...]:
    """One chart a held-out set, avg@k and pass@k together."""
    measures: dict[str, list[tuple[str, str]]] = {}
    for name in _metric_names(runs):
        match = _EVAL_METRIC.fullmatch(name)
        if match:
            measures.setdefault(match[1], []).append((name, match[2]))
    return tuple(
        Chart(title=f"Held-out: {name}", unit="share solved", metrics=tuple(metrics))
        for name, metrics in measures.items()
    )


def other_charts(runs: Sequence[Run], drawn: Iterable[Chart]) -> tuple[Chart, ...]:
    """Every metric that no chart of the page has shown, so that nothing recorded stays unseen."""
    seen = {name for chart in drawn for name, _ in chart.metrics}
    seen |= {f"time/{phase}_s" for phase in PHASES} | {"time/step_s"}
    rest = sorted(name for name in _metric_names(runs) if name not in seen and not name.startswith("trust_region/"))
    return tuple(Chart(title=name, unit="value", metrics=((name, name),)) for name in rest)


def draw(charts: Iterable[Chart], runs: Sequence[Run]) -> str:
    """Figures of the charts that have data."""
    return "".join(_figure(chart, runs) for chart in charts)


def draw_phases(run: Run, title: str) -> str:
    """Seconds of each phase, stacked, with the whole step as a line: phases may overlap."""
    layers = [
        Line(label=phase, points=run.series.get(f"time/{phase}_s", ()), color=index)
        for index, phase in enumerate(PHASES)
    ]
    whole = run.series.get("time/step_s")
    total = Line(label="whole step", points=whole, color=COLORS - 1) if whole else None
    svg = stacked_chart(layers, total, "seconds a step")
    if not svg:
        return ""
    boxes = "".join(
        f'<span><i class="box" style="background:var(--s{layer.color})"></i>{layer.label}</span>' for layer in layers
    )
    line = '<span><i class="box" style="height:2px;background:var(--ink)"></i>whole step</span>'
    return _wrap(title, "time/*_s", _last(run, "time/step_s"), boxes + (line if total else ""), svg)


def _figure(chart: Chart, runs: Sequence[Run]) -> str:
    lines = _lines(chart, runs)
    steps = max((len(line.points) for line in lines), default=0)
    window = max(5, steps // 20) if chart.smooth and steps >= _MIN_STEPS_TO_SMOOTH else 0
    svg = line_chart(lines, chart.unit, log=chart.log, include=chart.include, smooth=window)
    if not svg:
        return ""
    names = ", ".join(dict.fromkeys(name for name, _ in chart.metrics if any(name in run.series for run in runs)))
    now = _last(runs[0], chart.metrics[0][0]) if len(runs) == 1 and len(lines) == 1 else ""
    note = f"; bold: mean of {window} steps" if window else ""
    return _wrap(chart.title, names + note, now, _legend(chart, runs, lines), svg)


def _legend(chart: Chart, runs: Sequence[Run], lines: Sequence[Line]) -> str:
    if len(lines) == 1:
        return ""
    if len(runs) == 1:
        return "".join(f"<span>{swatch(line.color)}{escape(line.label)}</span>" for line in lines)
    colors = "".join(f"<span>{swatch(place)}{escape(run.name)}</span>" for place, run in enumerate(runs))
    first, *others = (label for _, label in chart.metrics)
    dashes = f"solid {first}, dashed {' and '.join(others)}" if any(line.dashed for line in lines) else ""
    return colors + (f'<span class="note">{escape(dashes)}</span>' if dashes else "")


def _lines(chart: Chart, runs: Sequence[Run]) -> list[Line]:
    """With one run, colours tell metrics apart; with several, colours tell runs and dashes metrics."""
    lines = []
    for place, run in enumerate(runs):
        present = [(index, metric) for index, metric in enumerate(chart.metrics) if metric[0] in run.series]
        for index, (name, label) in present:
            several = len(chart.metrics) > 1
            text = label if len(runs) == 1 else f"{run.name}, {label}" if several else run.name
            color, dashed = (index, False) if len(runs) == 1 else (place, index > 0)
            lines.append(Line(label=text, points=run.series[name], color=color, dashed=dashed))
    return lines


def _wrap(title: str, caption: str, now: str, legend: str, svg: str) -> str:
    legend = f'<div class="legend">{legend}</div>' if legend else ""
    return (
        f'<figure><div class="head"><h3>{escape(title)}</h3><span class="now">{now}</span></div>'
        f'<figcaption class="mono">{escape(caption)}</figcaption>{legend}{svg}</figure>'
    )


def _last(run: Run, name: str) -> str:
    values = [value for _, value in run.series.get(name, ()) if value is not None]
    return format_number(values[-1]) if values else ""


def _metric_names(runs: Sequence[Run]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for run in runs for name in run.series))
