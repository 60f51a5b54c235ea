"""The content of a run folder, read once; a long run takes 17 bytes per number."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maspo_dist.config.keys import flatten
from maspo_dist.runs.catalogue import held_out_score
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.progress import Progress, progress_of
from maspo_dist.views.format import MISSING

_SAMPLES_PER_STEP = 200
_BLOCK_ROWS = 256
#: Rows that the progress of a run is made of at its end; it tells seconds per step.
_LAST_ROWS = 20


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: rising steps i64[N], and values f64[N] with NaN where the number was not finite."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def finite(self) -> NDArray[np.float64]:
        """The values that are finite."""
        finite: NDArray[np.float64] = self.values[np.isfinite(self.values)]
        return finite

    def on(self, steps: NDArray[np.int64]) -> "Series":
        """The series on `steps`, which hold its own steps."""
        values = np.full(steps.size, np.nan)
        values[np.searchsorted(steps, self.steps)] = self.values
        return Series(steps, values)


EMPTY = Series(np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, as the report needs it.

    series    by metric name; none is empty
    every     of a long run, the series hold one of so many steps
    samples   rows of the first and the last sampled step
    """

    name: str
    progress: Progress
    series: Mapping[str, Series]
    ledger: Counter[tuple[str, str]]
    samples: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    config_yaml: str
    config: Mapping[str, object]
    every: int = 1

    @property
    def ledger_rows(self) -> list[list[str]]:
        """Outcome, reason, groups, share; the most frequent first."""
        total = self.ledger.total()
        return [[*key, f"{groups:,}", f"{groups / total:.1%}"] for key, groups in self.ledger.most_common()]

    @property
    def max_steps(self) -> int:
        """As configured, or the steps so far if the configuration does not say."""
        return self.progress.max_steps or self.progress.step


def read_run(path: Path) -> Run:
    """Raises ConfigError if `path` is no run folder, DataError for a damaged file in it."""
    folder = RunFolder.open_for_reading(path)
    every, rows = folder.sample_metrics()
    series = _read_series(rows)
    return Run(
        name=folder.name,
        progress=_progress_of(series, folder.max_steps),
        series=series,
        every=every,
        ledger=folder.ledger_counts(),
        samples=_first_and_last_samples(folder),
        events=list(folder.read_events()),
        config_yaml=folder.read_config_yaml(),
        config={key: value for key, value in flatten(folder.read_config()) if value != {}},
    )


def config_differences(runs: Sequence[Run]) -> list[list[object]]:
    """A row of the key and its value in each run, for every key whose values differ."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key != "run.name")
    rows = [[MISSING if (value := run.config.get(key)) is None else value for run in runs] for key in keys]
    return [[key, *row] for key, row in zip(keys, rows, strict=True) if any(value != row[0] for value in row)]


def _read_series(rows: Iterator[Mapping[str, float | None]]) -> dict[str, Series]:
    """Every metric of `rows`, by name.

    Rows become lines of a matrix many at a time: a number of its own in Python would take most of the time.
    """
    columns: dict[str, int] = {}
    places: dict[tuple[str, ...], NDArray[np.intp]] = {}
    blocks: list[tuple[NDArray[np.float64], NDArray[np.bool_]]] = []
    while block := list(islice(rows, _BLOCK_ROWS)):
        shapes = [tuple(row) for row in block]
        for names in set(shapes) - places.keys():
            places[names] = np.array([columns.setdefault(name, len(columns)) for name in names])
        values = np.full((len(block), len(columns)), np.nan)
        present = np.zeros(values.shape, np.bool_)
        for number, (row, names) in enumerate(zip(block, shapes, strict=True)):
            values[number, places[names]] = np.array(list(row.values()), np.float64)
            present[number, places[names]] = True
        blocks.append((values, present))
    if not blocks:
        return {}
    series = {}
    steps = _column([values for values, _ in blocks], columns.pop("step"), np.nan).astype(np.int64)
    for name, column in columns.items():
        present = _column([has for _, has in blocks], column, False)
        values = _column([values for values, _ in blocks], column, np.nan)
        series[name] = Series(steps, values) if present.all() else Series(steps[present], values[present])
    return series


def _column(blocks: Sequence[NDArray[Any]], column: int, missing: object) -> NDArray[Any]:
    """A column of all blocks; the first blocks may not have it yet."""
    parts = [block[:, column] if column < block.shape[1] else np.full(len(block), missing) for block in blocks]
    return np.concatenate(parts)


def _progress_of(series: Mapping[str, Series], max_steps: int) -> Progress:
    """As of all rows: made of the last rows, and of the first and last with a reward or a held-out score."""
    steps = set(np.unique(np.concatenate([one.steps[-_LAST_ROWS:] for one in series.values()] or [EMPTY.steps])))
    for name, one in series.items():
        if name == "reward/mean" or held_out_score(name):
            steps |= set(one.steps[np.isfinite(one.values)][[0, -1]] if one.finite.size else ())
    return progress_of((_row(series, int(step)) for step in sorted(steps)), max_steps)


def _row(series: Mapping[str, Series], step: int) -> dict[str, float | None]:
    row: dict[str, float | None] = {"step": step}
    for name, one in series.items():
        place = int(np.searchsorted(one.steps, step))
        if place < one.steps.size and one.steps[place] == step:
            value = float(one.values[place])
            row[name] = value if math.isfinite(value) else None
    return row


def _first_and_last_samples(folder: RunFolder) -> list[dict[str, Any]]:
    """Reads only the head and the tail of the file, which may be long."""
    tail = folder.last_samples()
    if not tail:
        return []
    _, first = next(groupby(folder.read_samples(), itemgetter("step")))
    samples = list(islice(first, _SAMPLES_PER_STEP))
    last_step = tail[-1]["step"]
    if last_step != samples[0]["step"]:
        samples += [row for row in tail if row["step"] == last_step][:_SAMPLES_PER_STEP]
    return samples
