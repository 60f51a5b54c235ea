"""The line of the data bench."""

from __future__ import annotations

import pytest

from actors.bench.data import run


def test_the_bench_says_how_long_the_rows_take_and_how_much_memory() -> None:
    [line] = run(rows=2_000)
    assert line.case.startswith("2,000 rows in ")
    assert line.case.endswith(" GB")
    assert (line.bench, line.unit) == ("data", "rows/s")
    assert line.value > 0
    assert line.ratio == pytest.approx(line.value / line.against)
