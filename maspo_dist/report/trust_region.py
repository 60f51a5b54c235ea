"""Inside the trust region: what happens to tokens by sign of advantage and by probability under π_old."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from maspo_dist import humanize
from maspo_dist.report.charts import Line, heat_chart
from maspo_dist.report.markup import escape
from maspo_dist.report.runs import Point, Run

_METRIC = re.compile(r"trust_region/(pos|neg)/([^/]+)/([^/]+)")
_SIGNS = {"pos": "A > 0", "neg": "A < 0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A measure of the table; `strength` in [0, 1] shades its cell, full where the policy is held back most."""

    measure: str
    heading: str
    show: Callable[[float], str]
    strength: Callable[[float], float]


_COLUMNS = (
    Column(measure="token_share", heading="tokens", show=lambda v: f"{v:.2%}", strength=lambda v: 0.0),
    Column(measure="ratio_mean", heading="mean ratio", show=lambda v: f"{v:.4f}", strength=lambda v: abs(v - 1)),
    Column(measure="gate_mean", heading="mean gate", show=lambda v: f"{v:.4f}", strength=lambda v: 1 - v),
    Column(measure="share_gate_below_0.99", heading="gate < 0.99", show=lambda v: f"{v:.2%}", strength=lambda v: v),
    Column(measure="share_gate_below_0.5", heading="gate < 0.5", show=lambda v: f"{v:.2%}", strength=lambda v: v),
    Column(measure="weight_kept", heading="weight kept", show=lambda v: f"{v:.2%}", strength=lambda v: 1 - v),
)


def draw_trust_region(run: Run) -> str:
    """Tables of the last step and strips over all steps; nothing where the run has no such metrics."""
    buckets = _buckets(run)
    if not buckets:
        return ""
    step, values = _last_step(run)
    tables = "".join(_table(sign, buckets, values) for sign in _SIGNS)
    strips = "".join(
        f'<figure><div class="head"><h3>{title}</h3></div>{svg}</figure>'
        for title, svg in (
            ("Gated tokens over time", heat_chart(_rows(run, buckets, "share_gate_below_0.99"), "share of tokens")),
            ("Gradient weight lost over time", heat_chart(_lost_weight(run, buckets), "share of weight")),
        )
        if svg
    )
    return (
        f'<p class="note">Step {step}. Rows are buckets of the token’s probability p under π_old; '
        "weight kept is the share of the gradient’s absolute weight that the gate lets through. "
        "The stronger a cell’s colour, the further from an ungated update.</p>"
        f'<div class="pair">{tables}</div><div class="pair" style="margin-top:12px">{strips}</div>'
    )


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


def _cell(column: Column, value: float | None) -> str:
    if value is None:
        return f"<td>{humanize.MISSING}</td>"
    # The root, because what matters happens between 0 and 0.1.
    strength = math.sqrt(min(1.0, max(0.0, column.strength(value))))
    return f'<td class="cell" style="--strength:{strength:.3f}">{column.show(value)}</td>'


def _rows(run: Run, buckets: Sequence[str], measure: str) -> list[Line]:
    return [
        Line(
            label=f"{_SIGNS[sign]}, p ≤ {bucket}",
            points=run.series.get(f"trust_region/{sign}/{bucket}/{measure}", ()),
            color=0,
        )
        for sign in _SIGNS
        for bucket in buckets
    ]


def _lost_weight(run: Run, buckets: Sequence[str]) -> list[Line]:
    return [
        Line(label=row.label, points=[_lost(point) for point in row.points], color=0)
        for row in _rows(run, buckets, "weight_kept")
    ]


def _lost(point: Point) -> Point:
    step, kept = point
    return step, None if kept is None else max(0.0, 1 - kept)


def _bucket_name(buckets: Sequence[str], bucket: str) -> str:
    place = buckets.index(bucket)
    return f"≤ {escape(bucket)}" if place == 0 else f"{escape(buckets[place - 1])} – {escape(bucket)}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text) is not None
