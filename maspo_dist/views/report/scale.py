"""From numbers to pixels, and round numbers for an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from maspo_dist.views.format import format_count


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


def linear_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale over `values` with a margin; a single value sits in the middle."""
    values = tuple(values) or (0.0, 1.0)
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    # A margin must not suggest negative values where there are none.
    floor = 0.0 if low >= 0 else -math.inf
    return Scale(low=max(floor, low - margin), high=high + margin, start=start, end=end)


def log_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """A logarithmic scale over the positive `values`, to whole decades where they span more than one."""
    positive = tuple(value for value in values if value > 0) or (1e-3, 1.0)
    low, high = min(positive), max(positive)
    if high / low > 10:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    else:
        low, high = low / 1.5, high * 1.5
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
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def log_ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    """Powers of ten; with fewer than two of them, 1, 2 and 5 times a power of ten."""
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
