"""The curves of a report: which metrics share a chart, and in which order the charts stand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from maspo_dist.runs.catalogue import find_metric, held_out_score
from maspo_dist.runs.progress import PHASES
from maspo_dist.views.format import format_number
from maspo_dist.views.report.charts import COLORS, LINE_BINS, Line, binned, line_chart, running_mean, stacked_chart
from maspo_dist.views.report.runs import EMPTY, Run

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
    include: Sequence[float] = ()
    log: bool = False
    smooth: bool = False

    @property
    def unit(self) -> str:
        """Of the first metric, from the catalogue."""
        metric = find_metric(next(iter(self.metrics)))
        return (metric.unit if metric else "value") + (", logarithmic" if self.log else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart as the page shows it. `svg` is HTML, all else is text.

    caption   (text, tooltip) of each part
    now       the last value, if the chart has one curve
    legend    (CSS class of the mark, text); no class makes the text a note
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
        [0],
    ),
    Chart("Turns of a conversation", {"conversation/turns_mean": "mean", "conversation/turns_max": "largest"}, [1]),
    Chart("Calls of tools", {"conversation/calls": "per response", "conversation/failed_calls": "failed"}, [0]),
    Chart("Policy entropy", {"policy/entropy": "entropy"}),
    Chart("Gradient norm", {"learner/grad_norm": "norm"}, smooth=True),
)
TRUST_REGION = (
    Chart("Probability ratio", {"ratio/max": "largest", "ratio/mean": "mean", "ratio/min": "smallest"}, log=True),
    Chart("Distance from π_old", {"policy/kl_k3": "k3", "policy/kl_k1": "k1"}, [0]),
    Chart("Mean gate", {"gate/mean": "mean"}, [1]),
    Chart("Gated tokens", {"gate/share_below_0.99": "gate < 0.99", "gate/share_below_0.5": "gate < 0.5"}, [0]),
    Chart(
        "Gradient weight kept",
        {
            "gradient/weight_kept": "by this loss",
            "gradient/weight_kept_by_ppo_clip": "by plain PPO clipping, for comparison",
        },
        [1],
    ),
    Chart("Plain PPO clipping would cut", {"gradient/share_cut_by_ppo_clip": "tokens"}, [0]),
    Chart("… of rare tokens that should grow", {"gradient/rare_positive_cut_by_ppo_clip": "gradient weight"}, [0]),
    Chart(
        "Mass clamps that bind",
        {"gate/share_mass_at_sigma_base": "at σ_base", "gate/share_mass_at_sigma_max": "at σ_max"},
        [0],
    ),
    Chart(
        "Risk clamps that bind", {"gate/share_risk_at_min": "at risk_min", "gate/share_risk_at_max": "at risk_max"}, [0]
    ),
)
SPEED_AND_SYNC = (
    Chart("Engine against learner", {"sync/max_logprob_gap": "gap"}, log=True),
    Chart("Policy age", {"policy/age_mean": "mean", "policy/age_max": "largest"}, [0, 1]),
    Chart("Answers of environments", {"environment/step_s_p50": "median", "environment/step_s_p95": "95 %"}, [0]),
    Chart("Throughput", {"rollout/tokens_per_s": "rollout", "learner/tokens_per_s": "learner"}, [0]),
)


def draw_sections(runs: Sequence[Run]) -> dict[str, list[Figure]]:
    """The figures that have data, by section: learning, gates, speed, and others for all other metrics."""
    names = dict.fromkeys(name for run in runs for name in run.series)
    held_out: dict[str, dict[str, str]] = {}
    for name in names:
        if score := held_out_score(name):
            held_out.setdefault(score.set_name, {})[name] = score.measure
    scores = [Chart(f"Held-out: {name}", metrics) for name, metrics in held_out.items()]
    sections = {"learning": (LEARNING[0], *scores, *LEARNING[1:]), "gates": TRUST_REGION, "speed": SPEED_AND_SYNC}
    drawn = {name for charts in sections.values() for chart in charts for name in chart.metrics}
    drawn |= {f"time/{phase}_s" for phase in (*PHASES, "step")}
    rest = sorted(name for name in names if name not in drawn and not name.startswith("trust_region/"))
    sections["others"] = tuple(Chart(name, {name: name}) for name in rest)
    figures = {
        section: [figure for chart in charts if (figure := _figure(chart, runs))]
        for section, charts in sections.items()
    }
    figures["speed"] = [*(figure for run in runs if (figure := _phases(run, len(runs) > 1))), *figures["speed"]]
    return figures


def caption(title: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """The metrics of a chart, explained by the catalogue: in the text for one metric, as tooltips for several."""
    meanings = {name: metric.meaning if (metric := find_metric(name)) else "" for name in names}
    if len(names) > 1:
        return list(meanings.items())
    return [(": ".join(part for part in (name, meaning) if part != title), "") for name, meaning in meanings.items()]


def _phases(run: Run, several: bool) -> Figure | None:
    """Seconds of each phase, stacked, with the whole step as a line, since phases may overlap."""
    layers = {phase: run.series.get(f"time/{phase}_s", EMPTY) for phase in PHASES}
    svg = stacked_chart(layers, run.series.get("time/step_s", EMPTY), "seconds per step")
    legend = [(f"key box s{color}", phase) for color, phase in enumerate(PHASES)]
    if "time/step_s" in run.series:
        legend.append(("key ink", "whole step"))
    title, now = f"Time: {run.name}" if several else "Time", _last(run, "time/step_s")
    return Figure(title=title, svg=svg, caption=[("time/*_s", "")], now=now, legend=legend) if svg else None


def _figure(chart: Chart, runs: Sequence[Run]) -> Figure | None:
    names = [name for name in chart.metrics if any(name in run.series for run in runs)]
    steps = max((run.series.get(name, EMPTY).steps.size for run in runs for name in names), default=0)
    window = max(5, steps // 20) if chart.smooth and steps >= _MIN_STEPS_TO_SMOOTH else 0
    lines = list(_lines(chart, runs, window))
    svg = line_chart(lines, chart.unit, log=chart.log, include=chart.include)
    if not svg:
        return None
    curves = [line for line in lines if line.hover]
    return Figure(
        title=chart.title,
        svg=svg,
        caption=caption(chart.title, names),
        note=f"; bold: mean of {window} steps" if window else "",
        now=_last(runs[0], names[0]) if len(runs) == len(curves) == 1 else "",
        legend=_legend(chart, runs, curves) if len(curves) > 1 else (),
    )


def _legend(chart: Chart, runs: Sequence[Run], curves: Sequence[Line]) -> list[tuple[str, str]]:
    if len(runs) == 1:
        return [(f"key s{line.color % COLORS}", line.label) for line in curves]
    legend = [(f"key s{place % COLORS}", run.name) for place, run in enumerate(runs)]
    if any("dashed" in line.style for line in curves):
        first, *others = chart.metrics.values()
        legend.append(("", f"solid {first}, dashed {' and '.join(others)}"))
    return legend


def _lines(chart: Chart, runs: Sequence[Run], window: int) -> Iterator[Line]:
    """Colours distinguish metrics if there is one run, else runs; then dashes distinguish metrics."""
    for place, run in enumerate(runs):
        for index, (name, label) in enumerate(chart.metrics.items()):
            series = run.series.get(name)
            if series is None:
                continue
            if len(runs) > 1:
                label = f"{run.name}, {label}" if len(chart.metrics) > 1 else run.name
            color, dash = (index, "") if len(runs) == 1 else (place, "dashed" if index else "")
            style = f"{dash} raw" if window else dash
            yield Line(label=label, bins=binned(series, LINE_BINS), color=color, style=style)
            if window:
                bins = binned(running_mean(series, window), LINE_BINS)
                yield Line(label=label, bins=bins, color=color, style=f"{dash} smooth", hover=False)


def _last(run: Run, name: str) -> str:
    values = run.series.get(name, EMPTY).finite
    return format_number(float(values[-1])) if values.size else ""
