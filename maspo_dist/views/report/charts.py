"""Charts as SVG text, and the scales of their axes. Colours are CSS classes: `s0`, … of lines, `f0`, … of areas."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from maspo_dist.views.format import format_count, format_number
from maspo_dist.views.report.runs import Series

WIDTH, HEIGHT = 330, 194
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 27, 30
#: Series colours in the style sheet; more series share them.
COLORS = 8
#: Bins of a curve.
LINE_BINS = 200

_BAR_BINS = 80
_HEAT_BINS = 60
_HEAT_WIDTH, _HEAT_LEFT, _HEAT_ROW = 600, 104, 16
_MOST_DOTS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Neighbouring points drawn as one; in a short curve, each point is its own bin."""

    first: int
    last: int
    mean: float
    low: float
    high: float

    @property
    def center(self) -> float:
        return (self.first + self.last) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps [low, high] to [start, end] pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of `value`, which is clamped to the scale."""
        low, high, value = self.low, self.high, min(self.high, max(self.low, value))
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int) -> tuple[float, ...]:
        """About `wanted` round numbers inside the scale."""
        return log_ticks(self.low, self.high, wanted) if self.log else round_ticks(self.low, self.high, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve; it breaks at None. `color` is its place in the palette.

    style   further CSS classes: dashed (a second measure of the same run), raw or smooth, total
    hover   whether its numbers are shown at the pointer
    """

    label: str
    bins: Sequence[Bin | None]
    color: int
    style: str = ""
    hover: bool = True


def binned(series: Series, limit: int) -> list[Bin | None]:
    """At most `limit` bins of equally many points; None where no point of a bin is finite."""
    size = max(1, math.ceil(series.steps.size / limit))
    bins: list[Bin | None] = []
    for start in range(0, series.steps.size, size):
        steps, values = series.steps[start : start + size].tolist(), series.values[start : start + size]
        finite = values[np.isfinite(values)].tolist()
        if not finite:
            bins.append(None)
            continue
        mean = sum(finite) / len(finite)
        bins.append(Bin(first=steps[0], last=steps[-1], mean=mean, low=min(finite), high=max(finite)))
    return bins


def running_mean(series: Series, window: int) -> Series:
    """Mean of the last `window` finite values at each step."""
    sums = np.concatenate([[0.0], np.cumsum(series.finite)])
    ends = np.cumsum(np.isfinite(series.values))
    starts = np.maximum(0, ends - window)
    with np.errstate(invalid="ignore"):
        return Series(series.steps, (sums[ends] - sums[starts]) / (ends - starts))


def line_chart(lines: Sequence[Line], y_label: str, *, log: bool = False, include: Sequence[float] = ()) -> str:
    """Curves over steps with bands from low to high. `include` are values that the y axis must reach, such as 0."""
    bins = [one for line in lines for one in line.bins if one is not None]
    if not bins:
        return ""
    values = [*include, *(value for one in bins for value in (one.low, one.high))]
    y = (log_scale if log else linear_scale)(values, HEIGHT - BOTTOM, TOP)
    x = step_scale(min(one.first for one in bins), max(one.last for one in bins), LEFT, WIDTH - RIGHT)
    labels = ", ".join(line.label for line in lines if line.hover)
    return _svg([_axes(x, y, y_label), *_lines(lines, x, y)], f"{labels} over steps, {y_label}")


def stacked_chart(layers: Mapping[str, Series], total: Series, y_label: str) -> str:
    """Bars over steps, stacked, by label; `total`, which may be empty, is a line across."""
    shown = [(color, label) for color, (label, series) in enumerate(layers.items()) if series.finite.size]
    if not shown:
        return ""
    series = [*(layers[label] for _, label in shown), total]
    steps = _common_steps(series)
    *columns, whole = [binned(one.on(steps), _BAR_BINS) for one in series]
    bars = list(zip(*columns, strict=True))
    tops = [0.0, *(sum(one.mean for one in bar if one) for bar in bars), *(one.mean for one in whole if one)]
    y = linear_scale(tops, HEIGHT - BOTTOM, TOP)
    inset = (WIDTH - LEFT - RIGHT) / (2 * len(bars) + 2)
    x = step_scale(int(steps[0]), int(steps[-1]), LEFT + inset, WIDTH - RIGHT - inset)
    width = max(1.0, min(28.0, (x.end - x.start) / max(1, len(bars) - 1) - 1))
    parts = [_axes(x, y, y_label)]
    for bar in bars:
        base = 0.0
        for (color, label), one in zip(shown, bar, strict=True):
            if one is not None:
                top, below = y(base + one.mean), y(base)
                title = _tooltip(label, one)
                parts.append(_rect(f"f{color % COLORS}", x(one.center) - width / 2, top, width, below - top, title))
                base += one.mean
    parts += _lines([Line(label="whole step", bins=whole, color=COLORS - 1, style="total")], x, y)
    return _svg(parts, f"{', '.join(label for _, label in shown)} over steps, {y_label}")


def heat_chart(rows: Mapping[str, Series], name: str) -> str:
    """One strip per row over steps; the larger the value, the darker, up to the chart's largest value."""
    # A bucket without tokens at a step has no point there, so strips are laid on common steps.
    steps = _common_steps(list(rows.values()))
    strips = [binned(series.on(steps), _HEAT_BINS) for series in rows.values()]
    largest = max((one.mean for strip in strips for one in strip if one), default=None)
    if largest is None:
        return ""
    x = step_scale(int(steps[0]), int(steps[-1]), _HEAT_LEFT, _HEAT_WIDTH - RIGHT)
    width = (x.end - x.start) / len(strips[0])
    parts = [_text(_HEAT_LEFT, 17, "axis", f"{name}, 0 to {format_number(largest)}")]
    for index, (label, strip) in enumerate(zip(rows, strips, strict=True)):
        top = TOP + index * _HEAT_ROW
        parts.append(_text(_HEAT_LEFT - 6, top + 12, "tick", label, "end"))
        for place, one in enumerate(strip):
            if one is not None:
                opacity = 0.04 + 0.96 * max(0.0, one.mean / largest if largest > 0 else 0.0)
                at, title = x.start + place * width, _tooltip(label, one)
                parts.append(_rect("heat", at, top, width + 0.3, _HEAT_ROW - 2, title, opacity))
    height = TOP + _HEAT_ROW * len(rows) + BOTTOM
    return _svg([*parts, _step_ticks(x, height)], f"{name} over steps", _HEAT_WIDTH, height)


def _svg(parts: Iterable[str], description: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    label = escape(description)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _text(x: float, y: float, css: str, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _rect(css: str, x: float, y: float, width: float, height: float, title: str, opacity: float = 1.0) -> str:
    return (
        f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(0.0, height):.1f}" '
        f'fill-opacity="{opacity:.3f}"><title>{escape(title)}</title></rect>'
    )


def _axes(x: Scale, y: Scale, y_label: str) -> str:
    parts = [_text(0, 12, "axis", y_label)]
    for tick in y.ticks(4):
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y(tick) + 4, "tick", tick_label(tick), "end"))
    return "".join(parts) + _step_ticks(x, HEIGHT)


def _step_ticks(x: Scale, height: int) -> str:
    ticks = [_text(x(t), height - 16, "tick", tick_label(t), "middle") for t in x.ticks(6) if t == int(t)]
    return "".join(ticks) + _text(x.end, height - 3, "axis", "step", "end")


def _lines(lines: Sequence[Line], x: Scale, y: Scale) -> Iterator[str]:
    """Curves, broken where values are missing; a piece of one point is a dot. Targets for the pointer lie above."""

    def at(one: Bin, value: float) -> str:
        return f"{x(one.center):.1f} {y(value):.1f}"

    def dot(css: str, one: Bin, radius: float, title: str = "") -> str:
        return f'<circle class="{css}" cx="{x(one.center):.1f}" cy="{y(one.mean):.1f}" r="{radius}">{title}</circle>'

    for line in lines:
        color = line.color % COLORS
        for _, bins in groupby(line.bins, lambda one: one is None):
            piece = [one for one in bins if one]
            if any(one.low < one.high for one in piece):
                edge = [at(one, one.high) for one in piece] + [at(one, one.low) for one in reversed(piece)]
                yield f'<path class="band f{color}" d="M{"L".join(edge)}Z"/>'
            if len(piece) == 1:
                yield dot(f"f{color} {line.style}", piece[0], 3)
            elif piece:
                yield f'<path class="line s{color} {line.style}" d="M{"L".join(at(one, one.mean) for one in piece)}"/>'
    for line in lines:
        # The points of a short curve are visible, since they show when it was measured.
        css, radius = ("point dot", 2.6) if len(line.bins) <= _MOST_DOTS else ("point", 4)
        for one in line.bins if line.hover else ():
            if one is not None:
                title = f"<title>{escape(_tooltip(line.label, one))}</title>"
                yield dot(f"{css} f{line.color % COLORS}", one, radius, title)


def _tooltip(label: str, one: Bin) -> str:
    steps, of = (f"step {one.first}", "") if one.first == one.last else (f"steps {one.first} to {one.last}", "mean ")
    around = f", {format_number(one.low)} to {format_number(one.high)}" if one.low < one.high else ""
    return f"{label}, {steps}: {of}{format_number(one.mean)}{around}"


def _common_steps(series: Sequence[Series]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([one.steps for one in series]))


def linear_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale over `values` with a margin; a single value sits in the middle."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    # A margin must not suggest negative values where there are none.
    floor = 0.0 if low >= 0 else -math.inf
    return Scale(low=max(floor, low - margin), high=high + margin, start=start, end=end)


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A logarithmic scale over the positive `values`, to whole decades if they span more than a decade."""
    positive = [value for value in values if value > 0] or [1e-3, 1.0]
    low, high = min(positive), max(positive)
    if high / low <= 10:
        return Scale(low=low / 1.5, high=high * 1.5, start=start, end=end, log=True)
    low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    return Scale(low=low, high=high, start=start, end=end, log=True)


def step_scale(first: int, last: int, start: float, end: float) -> Scale:
    """Steps from left to right; a lone step sits in the middle."""
    margin = 0.5 if first == last else 0
    return Scale(low=first - margin, high=last + margin, start=start, end=end)


def round_ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    multiples = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return tuple(round(multiple * step, 12) for multiple in multiples)


def log_ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    """Powers of ten; if the scale holds fewer than two, 1, 2 and 5 times a power of ten."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first < 1:
        between = (factor * 10.0**exponent for exponent in range(first - 1, last + 1) for factor in (1, 2, 5))
        return tuple(tick for tick in between if low <= tick <= high) or round_ticks(low, high, wanted)
    stride = math.ceil((last - first + 1) / wanted)
    return tuple(10.0**exponent for exponent in range(first, last + 1, stride))


def tick_label(value: float) -> str:
    """Short enough for a margin: 0.25, 1500, 20k, 1e-6."""
    if value == 0:
        return "0"
    if abs(value) >= 1e4:
        return format_count(value)
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"
