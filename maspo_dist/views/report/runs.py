"""What a run folder holds, read once and in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from maspo_dist.config.keys import flatten
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import tail_rows
from maspo_dist.runs.progress import Progress, progress_of

#: (step, value); None where the number was not finite.
Point = tuple[int, float | None]

_EVENTS_KEPT = 200
_SAMPLES_A_STEP = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, as the report needs it.

    series    by metric name, steps rising
    samples   rows of the first and the last sampled step
    events    the last ones; `event_count` is how many there were
    """

    name: str
    progress: Progress
    series: Mapping[str, Sequence[Point]]
    ledger: Counter[tuple[str, str]]
    samples: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    event_count: int
    config_yaml: str
    config: Mapping[str, object]

    @property
    def max_steps(self) -> int:
        value = self.config.get("run.max_steps")
        return value if isinstance(value, int) else self.progress.step


def read_run(path: Path) -> Run:
    """Raises ConfigError if `path` is no run folder, DataError for a damaged file in it."""
    folder = RunFolder.open_for_reading(path)
    config_yaml = folder.config_path.read_text(encoding="utf-8") if folder.config_path.is_file() else ""
    config = {key: value for key, value in flatten(folder.read_config()) if value != {}}
    rows = list(folder.read_metrics())
    events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
    event_count = 0
    for event in folder.read_events():
        events.append(event)
        event_count += 1
    max_steps = config.get("run.max_steps")
    return Run(
        name=folder.name,
        progress=progress_of(rows, max_steps if isinstance(max_steps, int) else 0),
        series=_series(rows),
        ledger=folder.ledger_counts(),
        samples=_first_and_last_samples(folder),
        events=tuple(events),
        event_count=event_count,
        config_yaml=config_yaml,
        config=config,
    )


def config_differences(runs: Sequence[Run]) -> list[tuple[str, tuple[object, ...]]]:
    """Keys whose values differ between the runs, with each run's value (None where it is not set)."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = [(key, tuple(run.config.get(key) for run in runs)) for key in keys if key != "run.name"]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


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
