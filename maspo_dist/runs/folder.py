"""The folder that a run leaves behind.

    runs/<name>/
        config.yaml       the resolved configuration
        metrics.jsonl     one object per step: `step` and flat `group/name` numbers; held-out scores have their own row
        ledger.jsonl      what became of every prompt group
        samples.jsonl     prompts, responses, verdicts
        events.jsonl      faults, restarts, scaling
        live.json         what the run does at this moment
        ray_address       the cluster that it is on
        checkpoints/      step-000040/ …
        steps/            recorded steps, for replay
        tensorboard/      event files
        logs/             one file per process
        report.html

One process writes at a time and holds a lock; any process may read meanwhile.
"""

from __future__ import annotations

import fcntl
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Self

import yaml

from maspo_dist.errors import ConfigError, DataError
from maspo_dist.runs.jsonl import JsonLog, finite, read_rows, replace_text
from maspo_dist.types import Event, LedgerRow, SampleRow


class RunFolder:
    """The paths of one run folder, and the appends to its files."""

    def __init__(self, path: Path) -> None:
        """Names a folder, for reading; `create` and `resume` open a folder for writing."""
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.ledger_path = path / "ledger.jsonl"
        self.samples_path = path / "samples.jsonl"
        self.events_path = path / "events.jsonl"
        self.live_path = path / "live.json"
        self.address_path = path / "ray_address"
        self.checkpoints_path = path / "checkpoints"
        self.steps_path = path / "steps"
        self.tensorboard_path = path / "tensorboard"
        self.logs_path = path / "logs"
        self.report_path = path / "report.html"
        self._metrics = JsonLog(self.metrics_path)
        self._ledger = JsonLog(self.ledger_path)
        self._samples = JsonLog(self.samples_path)
        self._events = JsonLog(self.events_path)
        self._lock: BinaryIO | None = None
        self._last_row: Mapping[str, Any] = {}

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Makes the folder of a new run and takes its lock.

        A folder whose run wrote neither a metric nor a checkpoint is reused; its events stay. Raises ConfigError for
        a folder that was used, is in use, or cannot be made.
        """
        folder = cls(path)
        if folder.used:
            raise ConfigError(
                f"run folder {path} exists already: choose another run.name, or set checkpoint.resume=auto to resume it"
            )
        folder._take()
        for log in (folder._metrics, folder._ledger, folder._samples):
            log.keep(lambda _: False)
        return folder

    @classmethod
    def resume(cls, path: Path) -> RunFolder:
        """Opens the folder of an interrupted run, or makes a new folder; `rewind` then sets the step.

        Raises ConfigError if the folder is in use or cannot be written.
        """
        folder = cls(path)
        folder._take()
        folder._last_row = folder._newest_metrics()
        return folder

    @classmethod
    def open_for_reading(cls, path: Path) -> RunFolder:
        """Raises ConfigError if there is no run folder at `path`."""
        folder = cls(path)
        if not folder.config_path.is_file() and not folder.metrics_path.is_file():
            raise ConfigError(f"{path} is not a run folder: it holds neither config.yaml nor metrics.jsonl")
        return folder

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def used(self) -> bool:
        """Whether a run has left metrics or checkpoints here."""
        has_metrics = self.metrics_path.is_file() and self.metrics_path.stat().st_size > 0
        return has_metrics or (self.checkpoints_path.is_dir() and any(self.checkpoints_path.iterdir()))

    @property
    def in_use(self) -> bool:
        """Whether a process writes here. Not for the writing process itself: the check could drop its lock."""
        if self._lock is not None:
            return True
        try:
            # Append mode would make the file, and a reader must not.
            with (self.path / ".lock").open("r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return False
        return False

    def write_config(self, config_yaml: str) -> None:
        """Replaces config.yaml; call it once the run is certain to use this configuration."""
        replace_text(self.config_path, config_yaml)

    @property
    def last_step(self) -> int | None:
        """The step of the newest row of metrics, None if there is none."""
        step: int | None = self._last_row.get("step")
        return step

    def is_scored(self, step: int) -> bool:
        """Whether the scores of an evaluation after `step` are written."""
        return any(row["step"] == step and "time/evaluate_s" in row for row in self.read_metrics())

    def write_metrics(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Appends a line of `step`, which may have several lines with different names.

        Raises ValueError for a step before the last one, and for a name that the step already has.
        """
        last = self.last_step
        repeats = step == last and not self._last_row.keys().isdisjoint(metrics)
        if last is not None and (step < last or repeats):
            raise ValueError(f"metrics of step {step} after those of step {last}")
        row = {"step": step, **metrics}
        self._metrics.append([row])
        self._last_row = {**self._last_row, **row} if step == last else row

    def write_ledger(self, rows: Iterable[LedgerRow]) -> None:
        self._ledger.append(asdict(row) for row in rows)

    def write_samples(self, rows: Iterable[SampleRow]) -> None:
        self._samples.append(finite(asdict(row)) for row in rows)

    def write_event(self, event: Event) -> None:
        self._events.append([event.row()])

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """One row per step: all lines of a step are merged."""
        for _, lines in groupby(read_rows(self.metrics_path), key=lambda row: row["step"]):
            yield {name: value for line in lines for name, value in line.items()}

    def read_ledger(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.ledger_path)

    def ledger_counts(self) -> Counter[tuple[str, str]]:
        """Number of groups by (outcome, reason)."""
        return Counter((str(row["outcome"]), str(row.get("reason") or "")) for row in self.read_ledger())

    def read_samples(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.samples_path)

    def read_events(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.events_path)

    def read_config(self) -> dict[str, Any]:
        """config.yaml as plain values, unvalidated, since another version may have written it; empty without the file.

        Raises DataError for a file that is not YAML.
        """
        if not self.config_path.is_file():
            return {}
        try:
            config = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise DataError(f"{self.config_path} is not YAML: {error}") from None
        return config if isinstance(config, dict) else {}

    def rewind(self, step: int) -> int:
        """Removes the rows after `step`, which a resumed run writes again; returns the number of steps removed.

        Pending ledger rows of every step are removed: their groups are admitted again. Events stay, since they
        happened.
        """

        def happened(row: dict[str, Any]) -> bool:
            return int(row["step"]) <= step

        steps = self._metrics.keep(happened)
        self._samples.keep(happened)
        self._ledger.keep(lambda row: happened(row) and row["outcome"] != "pending")
        self._last_row = self._newest_metrics()
        return steps

    def write_address(self, address: str) -> None:
        """Notes the Ray cluster that the run is on."""
        self.address_path.write_text(address, encoding="utf-8")

    def read_address(self) -> str | None:
        """The Ray cluster that the run was last on; None before it has started."""
        return self.address_path.read_text(encoding="utf-8") if self.address_path.is_file() else None

    def sync(self) -> None:
        """Waits until the disk holds everything written so far."""
        for log in (self._metrics, self._ledger, self._samples, self._events):
            log.sync()

    def close(self) -> None:
        """Closes all files and releases the lock. May be called twice."""
        for log in (self._metrics, self._ledger, self._samples, self._events):
            log.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _newest_metrics(self) -> Mapping[str, Any]:
        rows = deque(self.read_metrics(), maxlen=1)
        return rows[0] if rows else {}

    def _take(self) -> None:
        try:
            for folder in (self.path, self.checkpoints_path, self.tensorboard_path, self.logs_path):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(
                self.path, f"run folder {self.path} is in use by a running job: choose another run.name"
            )
        except OSError as error:
            raise ConfigError(f"run folder {self.path} cannot be written: {error.strerror}; set run.dir") from None


def lock_folder(folder: Path, complaint: str) -> BinaryIO:
    """Locks `folder` for this process alone; closing the returned file releases it.

    Raises ConfigError with `complaint` if another process holds the lock, OSError if the file cannot be made.
    """
    file = (folder / ".lock").open("ab")
    try:
        # A record lock, not flock: children forked while it is held do not keep it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise ConfigError(complaint) from None
    except OSError:
        # Some network file systems have no locks; a run there works without one.
        return file
    return file
