"""Charts as SVG text. Colours are CSS classes `s0`, `s1`, …, so that light and dark pages share them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from maspo_dist.views.format import format_number
from maspo_dist.views.report.runs import Point
from maspo_dist.views.report.scale import Scale, linear_scale, log_scale, step_scale, tick_label

WIDTH, HEIGHT = 330, 194
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 27, 30
#: Series colours in the style sheet; more series than that share them.
COLORS = 8

_LINE_BINS = 200
_BAR_BINS = 80
_HEAT_BINS = 60
_HEAT_WIDTH = 600
_MOST_DOTS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve. `color` is its place in the palette; `dashed` tells a second measure of the same run."""

    label: str
    points: Sequence[Point]
    color: int
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Neighbouring points drawn as one; of a short curve, each point is its own bin."""

    first: int
    last: int
    mean: float
    low: float
    high: float


def binned(points: Sequence[Point], limit: int) -> list[Bin | None]:
    """At most `limit` bins of equally many points; None where no point of a bin is finite."""
    size = max(1, math.ceil(len(points) / limit))
    bins: list[Bin | None] = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        values = [value for _, value in chunk if value is not None]
        if not values:
            bins.append(None)
            continue
        mean = sum(values) / len(values)
        bins.append(Bin(first=chunk[0][0], last=chunk[-1][0], mean=mean, low=min(values), high=max(values)))
    return bins


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Mean of the last `window` finite values at each step."""
    recent: list[float] = []
    means: list[Point] = []
    for step, value in points:
        if value is not None:
            recent = [*recent, value][-window:]
        means.append((step, sum(recent) / len(recent) if recent else None))
    return means


def line_chart(
    lines: Sequence[Line], y_label: str, *, log: bool = False, include: Sequence[float] = (), smooth: int = 0
) -> str:
    """Curves over steps.

    include   values that the y axis must reach, such as 0 for a share
    smooth    steps of a running mean, drawn over the faint raw curve; 0 draws the raw curve only
    """
    curves = [binned(line.points, _LINE_BINS) for line in lines]
    bins = [one for curve in curves for one in curve if one is not None]
    if not bins:
        return ""
    values = [*include, *(value for one in bins for value in (one.low, one.high))]
    y = (log_scale if log else linear_scale)(values, HEIGHT - BOTTOM, TOP)
    x = _step_axis(line.points for line in lines)
    parts = [_axes(x, y, y_label)]
    for line, curve in zip(lines, curves, strict=True):
        raw = "raw" if smooth else ""
        parts += _curve(line, curve, x, y, raw)
        if smooth:
            parts += _curve(line, binned(running_mean(line.points, smooth), _LINE_BINS), x, y, "smooth")
        parts += _hover_points(line, curve, x, y)
    return _svg(parts, f"{', '.join(line.label for line in lines)} over steps, {y_label}")


def interval_chart(curves: Sequence[tuple[Line, Sequence[Bin | None]]], y_label: str, include: Sequence[float]) -> str:
    """Curves whose bands are given, such as means over seeds with their intervals; `Line.points` are not drawn."""
    bins = [one for _, curve in curves for one in curve if one is not None]
    if not bins:
        return ""
    y = linear_scale([*include, *(value for one in bins for value in (one.low, one.high))], HEIGHT - BOTTOM, TOP)
    x = step_scale(min(one.first for one in bins), max(one.last for one in bins), LEFT, WIDTH - RIGHT)
    parts = [_axes(x, y, y_label)]
    for line, curve in curves:
        parts += _curve(line, curve, x, y, "")
        parts += _hover_points(line, curve, x, y)
    return _svg(parts, f"{', '.join(line.label for line, _ in curves)} over steps, {y_label}")


def stacked_chart(layers: Sequence[Line], total: Line | None, y_label: str) -> str:
    """Bars over steps, one on the other, with `total` as a line across."""
    layers = [layer for layer in layers if any(value is not None for _, value in layer.points)]
    if not layers:
        return ""
    steps = sorted({step for layer in layers for step, _ in layer.points})
    columns = [binned(_on_steps(layer.points, steps), _BAR_BINS) for layer in layers]
    heights = [sum(column.mean for column in bar if column) for bar in zip(*columns, strict=True)]
    total_bins = binned(_on_steps(total.points, steps), _BAR_BINS) if total else []
    tops = [0.0, *heights, *(one.mean for one in total_bins if one)]
    y = linear_scale(tops, HEIGHT - BOTTOM, TOP)
    inset = (WIDTH - LEFT - RIGHT) / (2 * len(heights) + 2)
    x = step_scale(steps[0], steps[-1], LEFT + inset, WIDTH - RIGHT - inset)
    width = max(1.0, min(28.0, (x.end - x.start) / max(1, len(heights) - 1) - 1))
    parts = [_axes(x, y, y_label)]
    for index in range(len(heights)):
        base = 0.0
        for layer, column in zip(layers, columns, strict=True):
            one = column[index]
            if one is None:
                continue
            top = base + one.mean
            center = (x(one.first) + x(one.last)) / 2
            parts.append(
                f'<rect class="f{layer.color % COLORS}" x="{center - width / 2:.1f}" y="{y(top):.1f}" '
                f'width="{width:.1f}" height="{max(0.0, y(base) - y(top)):.1f}">'
                f"<title>{escape(_tooltip(layer.label, one))}</title></rect>"
            )
            base = top
    if total:
        parts += _curve(total, total_bins, x, y, "total")
        parts += _hover_points(total, total_bins, x, y)
    return _svg(parts, f"{', '.join(layer.label for layer in layers)} over steps, {y_label}")


def heat_chart(rows: Sequence[Line], name: str) -> str:
    """One strip a row over steps; the darker, the larger, full at the chart's largest value."""
    # A bucket without tokens at a step has no row there: strips are laid on common steps.
    steps = sorted({step for row in rows for step, _ in row.points})
    strips = [binned(_on_steps(row.points, steps), _HEAT_BINS) for row in rows]
    largest = max((one.mean for strip in strips for one in strip if one), default=0.0)
    if not any(one for strip in strips for one in strip):
        return ""
    left, row_height = 104, 16
    height = TOP + row_height * len(rows) + BOTTOM
    x = step_scale(steps[0], steps[-1], left, _HEAT_WIDTH - RIGHT)
    parts = [f'<text x="{left}" y="17" class="axis">{escape(name)}, 0 to {format_number(largest)}</text>']
    for index, (row, strip) in enumerate(zip(rows, strips, strict=True)):
        top = TOP + index * row_height
        parts.append(f'<text x="{left - 6}" y="{top + 12}" class="tick" text-anchor="end">{escape(row.label)}</text>')
        width = (x.end - x.start) / len(strip)
        for place, one in enumerate(strip):
            if one is not None:
                strength = one.mean / largest if largest > 0 else 0.0
                parts.append(
                    f'<rect class="heat" x="{x.start + place * width:.1f}" y="{top}" width="{width + 0.3:.1f}" '
                    f'height="{row_height - 2}" fill-opacity="{0.04 + 0.96 * max(0.0, strength):.3f}">'
                    f"<title>{escape(_tooltip(row.label, one))}</title></rect>"
                )
    parts.append(_step_ticks(x, height))
    return _svg(parts, f"{name} over steps", _HEAT_WIDTH, height)


def swatch(color: int) -> str:
    """A short piece of a curve, for a legend."""
    return (
        '<svg class="swatch" viewBox="0 0 18 8" aria-hidden="true">'
        f'<path class="line s{color % COLORS}" d="M0 4H18"/></svg>'
    )


def _svg(parts: Iterable[str], description: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    label = escape(description)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _step_axis(curves: Iterable[Sequence[Point]]) -> Scale:
    steps = [step for points in curves for step in ((points[0][0], points[-1][0]) if points else ())]
    return step_scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)


def _axes(x: Scale, y: Scale, y_label: str) -> str:
    parts = [f'<text x="0" y="12" class="axis">{escape(y_label)}</text>']
    for tick in y.ticks(4):
        at = f"{y(tick):.1f}"
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
        label = tick_label(tick)
        parts.append(f'<text x="{LEFT - 6}" y="{at}" dy="0.35em" class="tick" text-anchor="end">{label}</text>')
    parts.append(_step_ticks(x, HEIGHT))
    return "".join(parts)


def _step_ticks(x: Scale, height: int) -> str:
    ticks = [tick for tick in x.ticks(6) if tick == int(tick)]
    parts = [
        f'<text x="{x(tick):.1f}" y="{height - 16}" class="tick" text-anchor="middle">{tick_label(tick)}</text>'
        for tick in ticks
    ]
    return "".join(parts) + f'<text x="{x.end:.1f}" y="{height - 3}" class="axis" text-anchor="end">step</text>'


def _curve(line: Line, bins: Sequence[Bin | None], x: Scale, y: Scale, style: str) -> Iterator[str]:
    """The curve in pieces, broken where values are missing; a piece of one point is a dot."""
    color = f"s{line.color % COLORS}"
    dash = " dashed" if line.dashed else ""
    for piece in _pieces(bins):
        places = [(x((one.first + one.last) / 2), y(one.mean)) for one in piece]
        if any(one.low < one.high for one in piece):
            upper = [f"{px:.1f} {y(one.high):.1f}" for (px, _), one in zip(places, piece, strict=True)]
            lower = [f"{px:.1f} {y(one.low):.1f}" for (px, _), one in zip(places, piece, strict=True)]
            yield f'<path class="band f{line.color % COLORS}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'
        if len(places) == 1:
            ((px, py),) = places
            yield f'<circle class="f{line.color % COLORS} {style}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>'
        else:
            path = "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
            yield f'<path class="line {color}{dash} {style}" d="M{path}"/>'


def _hover_points(line: Line, bins: Sequence[Bin | None], x: Scale, y: Scale) -> Iterator[str]:
    """Targets for the pointer; of a curve with few points they are visible, as where it was measured."""
    style, radius = ("point dot", 2.6) if len(bins) <= _MOST_DOTS else ("point", 4)
    color = f"f{line.color % COLORS}"
    for one in bins:
        if one is not None:
            at = f'cx="{x((one.first + one.last) / 2):.1f}" cy="{y(one.mean):.1f}"'
            title = escape(_tooltip(line.label, one))
            yield f'<circle class="{style} {color}" {at} r="{radius}"><title>{title}</title></circle>'


def _pieces(bins: Sequence[Bin | None]) -> Iterator[list[Bin]]:
    piece: list[Bin] = []
    for one in bins:
        if one is not None:
            piece.append(one)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _tooltip(label: str, one: Bin) -> str:
    steps, of = (f"step {one.first}", "") if one.first == one.last else (f"steps {one.first} to {one.last}", "mean ")
    around = f", {format_number(one.low)} to {format_number(one.high)}" if one.low < one.high else ""
    return f"{label}, {steps}: {of}{format_number(one.mean)}{around}"


def _on_steps(points: Sequence[Point], steps: Sequence[int]) -> list[Point]:
    values = dict(points)
    return [(step, values.get(step)) for step in steps]
