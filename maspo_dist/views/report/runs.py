"""The content of a run folder, read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from maspo_dist.config.keys import flatten
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import tail_rows
from maspo_dist.runs.progress import Progress, progress_of
from maspo_dist.views.format import MISSING

#: (step, value); None where the number was not finite.
Point = tuple[int, float | None]

_SAMPLES_A_STEP = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, as the report needs it.

    series    by metric name, steps rising
    samples   rows of the first and the last sampled step
    """

    name: str
    progress: Progress
    series: Mapping[str, Sequence[Point]]
    ledger: Counter[tuple[str, str]]
    samples: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    config_yaml: str
    config: Mapping[str, object]

    @property
    def max_steps(self) -> int:
        """As configured, or the steps so far if the configuration does not say."""
        return self.progress.max_steps or self.progress.step


def read_run(path: Path) -> Run:
    """Raises ConfigError if `path` is no run folder, DataError for a damaged file in it."""
    folder = RunFolder.open_for_reading(path)
    config_yaml = folder.config_path.read_text(encoding="utf-8") if folder.config_path.is_file() else ""
    config = {key: value for key, value in flatten(folder.read_config()) if value != {}}
    rows = list(folder.read_metrics())
    events = list(folder.read_events())
    return Run(
        name=folder.name,
        progress=progress_of(rows, folder.max_steps),
        series=_series(rows),
        ledger=folder.ledger_counts(),
        samples=_first_and_last_samples(folder),
        events=events,
        config_yaml=config_yaml,
        config=config,
    )


def config_differences(runs: Sequence[Run]) -> list[list[object]]:
    """A row of the key and its value in each run, for every key whose values differ."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key != "run.name")
    rows = [[MISSING if (value := run.config.get(key)) is None else value for run in runs] for key in keys]
    return [[key, *row] for key, row in zip(keys, rows, strict=True) if any(value != row[0] for value in row)]


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for row in rows:
        step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                series.setdefault(name, []).append((step, None if value is None else float(value)))
    return series


def _first_and_last_samples(folder: RunFolder) -> list[dict[str, Any]]:
    """A long run's samples are not read through: only the file's head and tail."""
    rows = folder.read_samples()
    head = next(rows, None)
    if head is None:
        return []
    first = [head, *islice(takewhile(lambda row: row["step"] == head["step"], rows), _SAMPLES_A_STEP)]
    tail = tail_rows(folder.samples_path)
    last_step = tail[-1]["step"] if tail else head["step"]
    if last_step == head["step"]:
        return first
    return first + [row for row in tail if row["step"] == last_step][:_SAMPLES_A_STEP]
