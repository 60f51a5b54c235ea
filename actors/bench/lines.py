"""Measurements behind `maspo-dist bench NAME`: one module a bench, each with `run() -> Iterator[BenchLine]`.

Benches that need the cluster or an engine live in `actors.bench`, all others here; both are listed in `actors.cli`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLine:
    """One measured case. `ratio` is `value` over `against`, measured in the same run; larger is better."""

    bench: str
    case: str
    value: float
    unit: str
    against: float
    ratio: float

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def compare(bench: str, case: str, value: float, unit: str, against: float) -> BenchLine:
    """The line of `value` held against `against`, both in `unit`."""
    return BenchLine(bench=bench, case=case, value=value, unit=unit, against=against, ratio=value / against)


__all__ = ["BenchLine", "compare"]
