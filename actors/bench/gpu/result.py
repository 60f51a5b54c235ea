"""What a check measured, the limits that it must hold, and the line that says so."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

#: A number or a text; a list of texts for names.
Figure = float | int | str | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Bounds of one figure; None: no bound."""

    figure: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        parts = [] if self.least is None else [f">= {self.least:g}"]
        parts += [] if self.most is None else [f"<= {self.most:g}"]
        return " and ".join(parts)

    def breach(self, value: Figure) -> str | None:
        """Why `value` breaks the limit, as a sentence; None if it does not. A figure that is no number breaks it."""
        if not isinstance(value, int | float) or math.isnan(value):
            return f"{self.figure} is {value}, where {self} is wanted"
        is_inside = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return None if is_inside else f"{self.figure} is {value:.4g}, where {self} is wanted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a check returns: figures by name, and the limits of some of them."""

    figures: Mapping[str, Figure]
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check that took `check_s` seconds. `reason` says in one sentence why it failed."""

    check: str
    device: str
    check_s: float
    measured: Measured
    reason: str | None

    @property
    def ok(self) -> bool:
        return self.reason is None

    def to_json(self) -> str:
        """One line of JSON: check, ok, device, seconds, the figures, the limits and, after a failure, the reason."""
        line: dict[str, object] = {"check": self.check, "ok": self.ok, "device": self.device}
        line["check_s"] = round(self.check_s, 1)
        line |= {name: _rounded(value) for name, value in self.measured.figures.items()}
        line["limits"] = {limit.figure: str(limit) for limit in self.measured.limits}
        return json.dumps(line if self.ok else line | {"reason": self.reason})


def judged(check: str, device: str, check_s: float, measured: Measured) -> CheckResult:
    """Fails by the first limit that `measured` breaks."""
    breaches = [limit.breach(measured.figures.get(limit.figure)) for limit in measured.limits]
    reason = next(filter(None, breaches), None)
    return CheckResult(check=check, device=device, check_s=check_s, measured=measured, reason=reason)


def crashed(check: str, device: str, check_s: float, reason: str) -> CheckResult:
    """A check that measured nothing."""
    return CheckResult(check=check, device=device, check_s=check_s, measured=Measured(figures={}), reason=reason)


def encode(result: CheckResult) -> str:
    """For `decode` in another process."""
    return json.dumps(asdict(result))


def decode(line: str) -> CheckResult:
    """The result in a line of `encode`."""
    tree = json.loads(line)
    limits = tuple(Limit(**limit) for limit in tree["measured"]["limits"])
    measured = Measured(figures=tree["measured"]["figures"], limits=limits)
    return CheckResult(**{**tree, "measured": measured})


def _rounded(value: Figure) -> Figure:
    """Four digits; JSON has no NaN or infinity, so these become text."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)
