"""The effect of the trust region on tokens, by sign of the advantage and by probability under π_old."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from maspo_dist.runs.catalogue import find_metric
from maspo_dist.runs.regime import MEASURED, describe_regime, measure_regime, suggestions
from maspo_dist.views.format import MISSING
from maspo_dist.views.report.charts import heat_chart
from maspo_dist.views.report.curves import Figure
from maspo_dist.views.report.runs import EMPTY, Run, Series

_METRIC = re.compile(r"trust_region/(?:pos|neg)/(\d+(?:\.\d+)?(?:e-?\d+)?)/[^/]+")
_SIGNS = {"pos": "A > 0", "neg": "A < 0"}


@dataclass(frozen=True, slots=True)
class _Column:
    """A measure of a table; `strength` in [0, 1] shades its cell: 1 is furthest from an ungated update."""

    measure: str
    heading: str
    form: str
    strength: Callable[[float], float] = lambda value: 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the trust region.

    heads   (heading, tooltip)
    rows    (name, cells); a cell is its text and its shade in [0, 1], None for no shade
    """

    title: str
    heads: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[tuple[str, str | None]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRegion:
    """Tables of the last step, and strips over all steps."""

    step: int
    tables: Sequence[Table]
    strips: Sequence[Figure]


_COLUMNS = (
    _Column("token_share", "tokens", ".2%"),
    _Column("ratio_mean", "mean ratio", ".4f", lambda ratio: abs(ratio - 1)),
    _Column("gate_mean", "mean gate", ".4f", lambda gate: 1 - gate),
    _Column("share_gate_below_0.99", "gate < 0.99", ".2%", lambda share: share),
    _Column("share_gate_below_0.5", "gate < 0.5", ".2%", lambda share: share),
    _Column("weight_kept", "weight kept", ".2%", lambda kept: 1 - kept),
    _Column("share_cut_by_ppo_clip", "PPO clip would cut", ".2%"),
    _Column("share_mass_at_sigma_base", "mass at σ_base", ".2%"),
    _Column("share_mass_at_sigma_max", "mass at σ_max", ".2%"),
    _Column("share_risk_at_min", "risk at min", ".2%"),
    _Column("share_risk_at_max", "risk at max", ".2%"),
    _Column("kl_k3", "KL (k3)", ".2g"),
    _Column("entropy", "entropy", ".2f"),
)
#: Of a token with an extreme ratio.
_TOKEN_COLUMNS = (
    _Column("ratio", "ratio", ".4g"),
    _Column("old_probability", "p under π_old", ".3g"),
    _Column("advantage", "A", "+.3f"),
    _Column("gate", "gate", ".4f"),
    _Column("token_id", "token id", ".0f"),
    _Column("position", "position in its response", ".0f"),
    _Column("group_id", "group", ".0f"),
)
_STRIPS = (
    ("Gated tokens over time", "share of tokens with gate < 0.99", "share_gate_below_0.99"),
    ("Gradient weight lost over time", "share of Σ|A|·ρ", "weight_kept"),
)


def trust_region_of(run: Run) -> TrustRegion | None:
    """None if the run has no such metrics."""
    names = {name: match[1] for name in run.series if (match := _METRIC.fullmatch(name))}
    if not names:
        return None
    buckets = sorted(set(names.values()), key=float)
    step = max(int(run.series[name].steps[-1]) for name in names)
    values = {name: float(one.values[-1]) for name, one in run.series.items() if one.steps[-1] == step}
    labels = [f"≤ {buckets[0]}", *(f"{low} – {high}" for low, high in pairwise(buckets))]
    tables = []
    for sign, aim in (("pos", "likelier"), ("neg", "rarer")):
        rows = {label: f"trust_region/{sign}/{bucket}" for label, bucket in zip(labels, buckets, strict=True)}
        tables.append(_table(f"{_SIGNS[sign]}: tokens to make {aim}", "p", rows, _COLUMNS, values))
    ends = {"largest": "ratio/max_token", "smallest": "ratio/min_token"}
    tables.append(_table("Tokens with the extreme ratios", "", ends, _TOKEN_COLUMNS, values))
    strips = [
        Figure(title=title, svg=svg)
        for title, unit, measure in _STRIPS
        if (svg := heat_chart(_strips(run, buckets, measure), unit))
    ]
    return TrustRegion(step=step, tables=[table for table in tables if table.rows], strips=strips)


def regime_of(run: Run) -> list[str]:
    """What the trust region had to do, then what that suggests, in sentences; empty if the run has no such metrics."""
    rows: dict[int, dict[str, float]] = {}
    for name in MEASURED:
        series = run.series.get(name, EMPTY)
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            if math.isfinite(value):
                rows.setdefault(step, {})[name] = value
    regime = measure_regime(rows.values())
    if regime is None:
        return []
    sentences = [describe_regime(regime), *suggestions(regime, str(run.config.get("algorithm.loss.kind", "")))]
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences]


def _table(
    title: str, corner: str, rows: Mapping[str, str], columns: Sequence[_Column], values: Mapping[str, float]
) -> Table:
    """`rows` maps a row's name to the prefix of its metrics; rows and columns without a value are left out."""
    cells = {(row, column): values.get(f"{rows[row]}/{column.measure}", math.nan) for row in rows for column in columns}
    known = [key for key, value in cells.items() if math.isfinite(value)]
    shown = [column for column in columns if any(column is other for _, other in known)]
    heads = [(corner, "")]
    for column in shown:
        metric = find_metric(f"{next(iter(rows.values()))}/{column.measure}")
        heads.append((column.heading, metric.meaning if metric else ""))
    return Table(
        title=title,
        heads=heads,
        rows=[
            (row, [_cell(column, cells[row, column]) for column in shown])
            for row in dict.fromkeys(row for row, _ in known)
        ],
    )


def _cell(column: _Column, value: float) -> tuple[str, str | None]:
    if math.isnan(value):
        return MISSING, None
    # The root, because what matters happens between 0 and 0.1.
    return f"{value:{column.form}}", f"{math.sqrt(min(1.0, max(0.0, column.strength(value)))):.3f}"


def _strips(run: Run, buckets: Sequence[str], measure: str) -> dict[str, Series]:
    """The curve of `measure` for each sign and bucket; the weight kept is turned into the weight lost."""
    strips = {}
    for sign, bucket in product(_SIGNS, buckets):
        series = run.series.get(f"trust_region/{sign}/{bucket}/{measure}", EMPTY)
        if measure == "weight_kept":
            series = Series(series.steps, np.maximum(0.0, 1 - series.values))
        strips[f"{_SIGNS[sign]}, p ≤ {bucket}"] = series
    return strips
