"""The content of a run folder, read once; a long run takes 16 bytes per number."""

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maspo_dist.config.keys import flatten
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import tail_rows
from maspo_dist.runs.progress import Progress
from maspo_dist.views.format import MISSING

_SAMPLES_PER_STEP = 200


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
    return Run(
        name=folder.name,
        progress=folder.read_progress(),
        series=_read_series(folder),
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


def _read_series(folder: RunFolder) -> dict[str, Series]:
    columns: dict[str, tuple[array[int], array[float]]] = {}
    for row in folder.read_metrics():
        step = row.pop("step")
        for name, value in row.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = (array("q"), array("d"))
            column[0].append(step)
            column[1].append(math.nan if value is None else value)
    return {
        name: Series(np.frombuffer(steps, np.int64), np.frombuffer(values)) for name, (steps, values) in columns.items()
    }


def _first_and_last_samples(folder: RunFolder) -> list[dict[str, Any]]:
    """Reads only the head and the tail of the file, which may be long."""
    tail = tail_rows(folder.samples_path)
    if not tail:
        return []
    _, first = next(groupby(folder.read_samples(), itemgetter("step")))
    samples = list(islice(first, _SAMPLES_PER_STEP))
    last_step = tail[-1]["step"]
    if last_step != samples[0]["step"]:
        samples += [row for row in tail if row["step"] == last_step][:_SAMPLES_PER_STEP]
    return samples
