"""Inside the trust region: what happens to tokens by sign of advantage and by probability under π_old."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from maspo_dist.views.format import MISSING
from maspo_dist.views.report.charts import Line, heat_chart
from maspo_dist.views.report.markup import escape
from maspo_dist.views.report.runs import Run

_METRIC = re.compile(r"trust_region/(pos|neg)/([^/]+)/([^/]+)")
_SIGNS = {"pos": "A > 0", "neg": "A < 0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A measure of the table; `strength` in [0, 1] shades its cell, full where the policy is held back most."""

    measure: str
    heading: str
    show: Callable[[float], str]
    strength: Callable[[float], float]


def _share_column(measure: str, heading: str, *, shaded: bool = False) -> Column:
    return Column(measure=measure, heading=heading, show=lambda v: f"{v:.2%}", strength=lambda v: v if shaded else 0.0)


_COLUMNS = (
    _share_column("token_share", "tokens"),
    Column(measure="ratio_mean", heading="mean ratio", show=lambda v: f"{v:.4f}", strength=lambda v: abs(v - 1)),
    Column(measure="gate_mean", heading="mean gate", show=lambda v: f"{v:.4f}", strength=lambda v: 1 - v),
    _share_column("share_gate_below_0.99", "gate < 0.99", shaded=True),
    _share_column("share_gate_below_0.5", "gate < 0.5", shaded=True),
    Column(measure="weight_kept", heading="weight kept", show=lambda v: f"{v:.2%}", strength=lambda v: 1 - v),
    _share_column("share_cut_by_ppo_clip", "PPO clip would cut"),
    _share_column("share_mass_at_sigma_base", "mass at σ_base"),
    _share_column("share_mass_at_sigma_max", "mass at σ_max"),
    _share_column("share_risk_at_min", "risk at min"),
    _share_column("share_risk_at_max", "risk at max"),
    Column(measure="kl_k3", heading="KL (k3)", show=lambda v: f"{v:.2g}", strength=lambda v: 0.0),
    Column(measure="entropy", heading="entropy", show=lambda v: f"{v:.2f}", strength=lambda v: 0.0),
)
#: Of a token with an extreme ratio: metric, heading, how it is written.
_TOKEN_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("ratio", "ratio", lambda v: f"{v:.4g}"),
    ("old_probability", "p under π_old", lambda v: f"{v:.3g}"),
    ("advantage", "A", lambda v: f"{v:+.3f}"),
    ("gate", "gate", lambda v: f"{v:.4f}"),
    ("token_id", "token id", lambda v: f"{v:.0f}"),
    ("position", "position in its response", lambda v: f"{v:.0f}"),
    ("group_id", "group", lambda v: f"{v:.0f}"),
)
_STRIPS = (
    ("Gated tokens over time", "share of tokens with gate < 0.99", "share_gate_below_0.99"),
    ("Gradient weight lost over time", "share of Σ|A|·ρ", "weight_kept"),
)


def draw_trust_region(run: Run) -> str:
    """Tables of the last step and strips over all steps; nothing where the run has no such metrics."""
    buckets = _buckets(run)
    if not buckets:
        return ""
    step, values = _last_step(run)
    tables = "".join(_table(sign, buckets, values) for sign in _SIGNS)
    strips = "".join(_strip(title, unit, _rows(run, buckets, measure)) for title, unit, measure in _STRIPS)
    return (
        f'<p class="note">Step {step}. Rows are buckets of the token’s probability p under π_old; tokens are a share '
        "of all; weight kept is the share of the gradient’s absolute weight that passes; clamps are a share of the "
        "gated tokens. The stronger a cell’s colour, the further from an ungated update.</p>"
        f'{tables}{_extreme_tokens(run, step)}<div class="pair">{strips}</div>'
    )


def _strip(title: str, unit: str, rows: Sequence[Line]) -> str:
    svg = heat_chart(rows, unit)
    return f'<figure><div class="head"><h3>{title}</h3></div>{svg}</figure>' if svg else ""


def _buckets(run: Run) -> tuple[str, ...]:
    """Upper ends of the buckets as written, in rising order."""
    found = {match[2] for name in run.series if (match := _METRIC.fullmatch(name))}
    return tuple(sorted((one for one in found if _is_number(one)), key=float))


def _last_step(run: Run) -> tuple[int, Mapping[str, float | None]]:
    curves = {name: points for name, points in run.series.items() if _METRIC.fullmatch(name)}
    step = max(points[-1][0] for points in curves.values())
    return step, {name: points[-1][1] for name, points in curves.items() if points[-1][0] == step}


def _table(sign: str, buckets: Sequence[str], values: Mapping[str, float | None]) -> str:
    cells = {
        (bucket, column.measure): values.get(f"trust_region/{sign}/{bucket}/{column.measure}")
        for bucket in buckets
        for column in _COLUMNS
    }
    columns = [column for column in _COLUMNS if any(cells[bucket, column.measure] is not None for bucket in buckets)]
    heads = "".join(f"<th>{escape(column.heading)}</th>" for column in columns)
    rows = "".join(
        f"<tr><td>{_bucket_name(buckets, bucket)}</td>"
        + "".join(_cell(column, cells[bucket, column.measure]) for column in columns)
        + "</tr>"
        for bucket in buckets
    )
    title = f"{_SIGNS[sign]}: tokens to make {'likelier' if sign == 'pos' else 'rarer'}"
    return (
        f'<div class="panel"><h3>{escape(title)}</h3><div class="scroll"><table class="tight">'
        f"<tr><th>p</th>{heads}</tr>{rows}</table></div></div>"
    )


def _extreme_tokens(run: Run, step: int) -> str:
    """The tokens of `step` with the largest and the smallest ratio; nothing where they are not known."""
    rows = ""
    for end, name in (("max", "largest"), ("min", "smallest")):
        values = [_at(run, f"ratio/{end}_token/{metric}", step) for metric, *_ in _TOKEN_COLUMNS]
        if None not in values:
            cells = (show(v) for (_, _, show), v in zip(_TOKEN_COLUMNS, values, strict=True) if v is not None)
            rows += f"<tr><td>{name}</td>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    if not rows:
        return ""
    heads = "".join(f"<th>{escape(heading)}</th>" for _, heading, _ in _TOKEN_COLUMNS)
    return (
        '<div class="panel"><h3>Tokens with the extreme ratios</h3><div class="scroll"><table class="tight">'
        f"<tr><th></th>{heads}</tr>{rows}</table></div></div>"
    )


def _at(run: Run, metric: str, step: int) -> float | None:
    return next((value for at, value in reversed(run.series.get(metric, ())) if at == step), None)


def _cell(column: Column, value: float | None) -> str:
    if value is None:
        return f"<td>{MISSING}</td>"
    # The root, because what matters happens between 0 and 0.1.
    strength = math.sqrt(min(1.0, max(0.0, column.strength(value))))
    return f'<td class="cell" style="--strength:{strength:.3f}">{column.show(value)}</td>'


def _rows(run: Run, buckets: Sequence[str], measure: str) -> list[Line]:
    """A curve of `measure` for each sign and bucket; what is kept is turned into what is lost."""
    rows = []
    for sign in _SIGNS:
        for bucket in buckets:
            points = run.series.get(f"trust_region/{sign}/{bucket}/{measure}", ())
            if measure == "weight_kept":
                points = [(step, None if kept is None else max(0.0, 1 - kept)) for step, kept in points]
            rows.append(Line(label=f"{_SIGNS[sign]}, p ≤ {bucket}", points=points, color=0))
    return rows


def _bucket_name(buckets: Sequence[str], bucket: str) -> str:
    place = buckets.index(bucket)
    return f"≤ {escape(bucket)}" if place == 0 else f"{escape(buckets[place - 1])} – {escape(bucket)}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text) is not None
