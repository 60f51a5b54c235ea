"""What a bench yields. Each bench is a module with `run() -> Iterator[BenchLine]`, listed in `actors.cli`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLine:
    """One measured case. `ratio` is `value` / `against`, both measured in the same run; larger is better."""

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
    """The line that compares `value` with `against`, both in `unit`."""
    return BenchLine(bench=bench, case=case, value=value, unit=unit, against=against, ratio=value / against)


__all__ = ["BenchLine", "compare"]
