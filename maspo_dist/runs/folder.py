"""The folder that a run leaves behind.

runs/<name>/
    config.yaml       the resolved configuration
    metrics.jsonl     one object per step: `step` and flat `group/name` numbers; held-out scores have their own row
    ledger.jsonl      what became of every prompt group
    samples.jsonl     prompts, responses, verdicts
    events.jsonl      faults, restarts, scaling
    live.json         what the run does at this moment
    ray_address       the cluster that it is on
    exported.json     what the endpoint for Prometheus goes on from at a resume
    checkpoints/      step-000040/ …
    steps/            recorded steps, for replay
    tensorboard/      event files
    logs/             one file per process
    report.html
runs/<name>.prometheus.json   where that endpoint is, for Prometheus' file discovery; only while it is served
"""

import fcntl
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import yaml

from maspo_dist.errors import ConfigError, DataError
from maspo_dist.runs.catalogue import held_out_score
from maspo_dist.runs.jsonl import (
    JsonLog,
    RetryingLog,
    count_values,
    end_rows,
    read_rows,
    replace_text,
    sample_rows,
    tail_rows,
)
from maspo_dist.runs.progress import Progress, progress_of
from maspo_dist.runs.rows import Event, SampleRow
from maspo_dist.runs.step_folders import StepFolders

if TYPE_CHECKING:  # `status` starts without numpy
    from maspo_dist.types import LedgerRow

#: Bytes in every row with held-out scores.
_SCORED = b'"eval/'
#: Bytes at the end of a long metrics.jsonl that are searched for the last such rows; each size is tried in turn.
_TAILS = (1 << 20, 1 << 23, 1 << 26)
#: About as much of a long metrics.jsonl is decoded for a report.
_SAMPLED_BYTES = 1 << 26
#: What readers need of every row.
_METRICS_KEYS = ("step",)
_SAMPLE_KEYS = ("step", "response")
_EVENT_KEYS = ("time", "kind", "message")
_MEND_CONFIG = "restore it, or remove it to go on without it"


class LockedFolder:
    """A folder that one process at a time writes, under a lock; any process may read meanwhile. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs_path = path / "logs"
        self._logs: list[JsonLog] = []
        self._lock: BinaryIO | None = None

    def lock(self, in_use: str, fix: str) -> None:
        """Makes and locks the folder. Raises ConfigError: `in_use` if it is locked, `fix` if it cannot be written."""
        try:
            self.logs_path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("ab")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written ({error.strerror}): {fix}") from None
        if not _locked(file):
            file.close()
            raise ConfigError(f"{self.path} is in use by {in_use}")
        self._lock = file

    @property
    def in_use(self) -> bool:
        """Whether a process writes here."""
        if self._lock is not None:
            # The check below would drop this process's own lock.
            return True
        try:
            # Append mode would make the file, and a reader must not.
            with (self.path / ".lock").open("r+b") as file:
                return not _locked(file)
        except OSError as error:
            return isinstance(error, PermissionError)

    def close(self) -> None:
        """Closes the files and releases the lock. May be called twice."""
        for log in self._logs:
            log.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _locked(file: BinaryIO) -> bool:
    """Whether this process now holds the lock. Some network file systems have no locks: there, it counts as held."""
    try:
        # A record lock, not flock: children forked while it is held do not keep it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError | PermissionError)
    return True


class RunFolder(LockedFolder):
    """The paths of one run folder, and the appends to its files.

    Rows of ledger, samples and events that the disk refuses wait in memory for the next append; metrics raise OSError.
    """

    def __init__(self, path: Path) -> None:
        """Names a folder, for reading; `create` and `resume` open a folder for writing."""
        super().__init__(path)
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
        self.report_path = path / "report.html"
        self.exported_path = path / "exported.json"
        self._metrics = JsonLog(self.metrics_path)
        self._ledger = RetryingLog(self.ledger_path)
        self._samples = RetryingLog(self.samples_path)
        self._events = RetryingLog(self.events_path)
        self._logs = [self._metrics, self._ledger, self._samples, self._events]
        self._newest: Mapping[str, Any] | None = None
        #: By kind, what this object has written.
        self.events_written: Counter[str] = Counter()

    @classmethod
    def create(cls, path: Path) -> Self:
        """Makes the folder of a new run and takes its lock.

        A folder whose run wrote neither a metric nor a checkpoint is reused; its events stay. Raises ConfigError for
        a folder that was used, is in use, or cannot be made.
        """
        cls(path).require_unused()
        folder = cls.resume(path)
        for path in (folder.metrics_path, folder.ledger_path, folder.samples_path, folder.exported_path):
            path.unlink(missing_ok=True)
        return folder

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Opens or makes the folder of a run; `rewind` then sets the step. Raises ConfigError as `lock` says.

        What a killed run left half written in checkpoints/ and steps/ is removed.
        """
        folder = cls(path)
        folder.lock("a running job: choose another run.name", "set run.dir")
        folder.checkpoints_path.mkdir(exist_ok=True)
        folder.tensorboard_path.mkdir(exist_ok=True)
        for steps in (folder.checkpoints_path, folder.steps_path):
            StepFolders(steps).remove_unfinished()
        return folder

    @classmethod
    def open_for_reading(cls, path: Path) -> Self:
        """Raises ConfigError if there is no run folder at `path`."""
        folder = cls(path)
        if not folder.config_path.is_file() and not folder.metrics_path.is_file():
            raise ConfigError(f"{path} is not a run folder: it holds neither config.yaml nor metrics.jsonl")
        return folder

    @property
    def discovery_path(self) -> Path:
        """Beside the folder: Prometheus takes a pattern in the last part of a path only."""
        path = self.path.resolve()
        return path.with_name(f"{path.name}.prometheus.json")

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def used(self) -> bool:
        """Whether a run has left metrics or checkpoints here."""
        has_metrics = self.metrics_path.is_file() and self.metrics_path.stat().st_size > 0
        return has_metrics or (self.checkpoints_path.is_dir() and any(self.checkpoints_path.iterdir()))

    def require_unused(self) -> None:
        """Raises ConfigError if a run was here."""
        if self.used:
            fix = "choose another run.name, or set checkpoint.resume=auto to resume it"
            raise ConfigError(f"run folder {self.path} exists already: {fix}")

    def require_no_other_run(self, checkpoint: Path) -> None:
        """Raises ConfigError if a run was here and `checkpoint`, which checkpoint.resume names, is of another run."""
        if self.used and not self.owns(checkpoint):
            fix = "choose another run.name, or set checkpoint.resume=auto to go on with the run that is there"
            raise ConfigError(f"checkpoint.resume {checkpoint} is of another run than the one in {self.path}: {fix}")

    def owns(self, checkpoint: Path) -> bool:
        """Whether `checkpoint` lies in this folder."""
        return checkpoint.resolve().parent == self.checkpoints_path.resolve()

    def started_from(self) -> Path | None:
        """The checkpoint of another run that this run started from; None if it started from model.path."""
        starts = [Path(event["checkpoint"]) for event in self.read_events() if event["kind"] == "started_from"]
        return starts[-1] if starts else None

    def write_config(self, config_yaml: str) -> None:
        """Replaces config.yaml; call it once the run is certain to use this configuration."""
        replace_text(self.config_path, config_yaml)

    @property
    def last_step(self) -> int | None:
        """The step of the newest row of metrics, None if there is none."""
        step: int | None = self._newest_row().get("step")
        return step

    def is_scored(self, step: int) -> bool:
        """Whether the scores of an evaluation after `step`, one of the last steps, are written."""
        rows = tail_rows(self.metrics_path, keys=_METRICS_KEYS)
        return any(row["step"] == step and "time/evaluate_s" in row for row in rows)

    def write_metrics(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Appends a line of `step`. Raises ValueError for a step before the last, and for a name that the step has."""
        row, newest = {"step": step, **metrics}, self._newest_row()
        last = newest.get("step", step)
        if step < last or (step == last and not newest.keys().isdisjoint(metrics)):
            raise ValueError(f"metrics of step {step} after those of step {last}")
        self._metrics.append([row])
        self._newest = {**newest, **row} if step == last else row

    def write_ledger(self, rows: "Iterable[LedgerRow]") -> None:
        self._ledger.append(map(asdict, rows))

    def write_samples(self, rows: Iterable[SampleRow]) -> None:
        self._samples.append(map(asdict, rows))

    def write_event(self, event: Event) -> None:
        self._events.append([event.row()])
        self.events_written[event.kind] += 1

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """One row per step: all lines of a step are merged."""
        return _merged(read_rows(self.metrics_path, keys=_METRICS_KEYS))

    def sample_metrics(self) -> tuple[int, Iterator[dict[str, Any]]]:
        """Returns n, and rows like those of `read_metrics`. Of a long run these are every n-th row, all rows with
        held-out scores, and everything in the first and the last megabyte.
        """
        size = self.metrics_path.stat().st_size if self.metrics_path.is_file() else 0
        every = max(1, -(-size // _SAMPLED_BYTES))
        return every, _merged(sample_rows(self.metrics_path, every, _SCORED, _METRICS_KEYS))

    def read_progress(self) -> Progress:
        """Progress of the run. Of a long run, only its ends are read if both hold the same held-out sets."""
        for tail_bytes in _TAILS:
            ends = end_rows(self.metrics_path, _SCORED, tail_bytes, _METRICS_KEYS)
            if ends is not None and _sets(ends[0]) == _sets(ends[1]) != set():
                return progress_of(_merged([*ends[0], *ends[1]]), self.max_steps)
        return progress_of(_merged(read_rows(self.metrics_path, _SCORED, _METRICS_KEYS)), self.max_steps)

    def read_ledger(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.ledger_path)

    def ledger_counts(self) -> Counter[tuple[str, str]]:
        """Number of groups by (outcome, reason)."""
        counts: Counter[tuple[str, str]] = Counter()
        for (outcome, reason), groups in count_values(self.ledger_path, "outcome", "reason").items():
            counts[outcome, reason or ""] += groups
        return counts

    def read_samples(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.samples_path, keys=_SAMPLE_KEYS)

    def last_samples(self) -> list[dict[str, Any]]:
        """The samples at the end of the file, which may be long."""
        return tail_rows(self.samples_path, keys=_SAMPLE_KEYS)

    def read_events(self) -> Iterator[dict[str, Any]]:
        return read_rows(self.events_path, keys=_EVENT_KEYS)

    def read_config_yaml(self) -> str:
        """config.yaml, empty without the file. Raises DataError for a file that is not UTF-8."""
        try:
            return self.config_path.read_text(encoding="utf-8") if self.config_path.is_file() else ""
        except UnicodeDecodeError:
            raise DataError(f"{self.config_path} is not UTF-8: {_MEND_CONFIG}") from None

    def read_config(self) -> dict[str, Any]:
        """config.yaml as plain values, unvalidated, since another version may have written it; empty without the file.

        Raises DataError for a file that is empty, or no YAML mapping.
        """
        if not self.config_path.is_file():
            return {}
        try:
            config = yaml.safe_load(self.read_config_yaml())
        except (yaml.YAMLError, ValueError) as error:  # A date such as 2026-02-30 is a ValueError.
            mark = getattr(error, "problem_mark", None)
            place = f"{self.config_path}, line {mark.line + 1}" if mark else self.config_path
            reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
            raise DataError(f"{place} cannot be read as YAML ({reason}): {_MEND_CONFIG}") from None
        if not isinstance(config, dict):
            lack = "is empty" if config is None else "holds no sections"
            raise DataError(f"{self.config_path} {lack}: {_MEND_CONFIG}")
        return config

    @property
    def max_steps(self) -> int:
        """run.max_steps of config.yaml, 0 if it is not there. Raises DataError as `read_config` does."""
        run = self.read_config().get("run")
        steps = run.get("max_steps") if isinstance(run, dict) else None
        return steps if isinstance(steps, int) else 0

    def rewind(self, step: int) -> int:
        """Removes the rows after `step`, which a resumed run writes again; returns the number of metrics rows removed.

        Pending ledger rows of every step are removed: their groups are admitted again. Events stay.
        Rows are in the order of their steps, and pending rows are the last: only what is removed is read.
        """

        def happened(row: dict[str, Any]) -> bool:
            return int(row["step"]) <= step

        self._newest = None
        self._samples.cut(happened)
        self._ledger.cut(lambda row: happened(row) and row["outcome"] != "pending")
        return self._metrics.cut(happened)

    def write_address(self, address: str) -> None:
        """Notes the Ray cluster that the run is on."""
        self.address_path.write_text(address, encoding="utf-8")

    def read_address(self) -> str | None:
        """The Ray cluster that the run was last on; None before it has started."""
        return self.address_path.read_text(encoding="utf-8") if self.address_path.is_file() else None

    def sync(self) -> str | None:
        """Waits until the disk holds all rows that it accepts.

        Returns why no checkpoint should be saved now, or None: while the disk refuses rows of the ledger, a run that
        resumes from a checkpoint would lack them.
        """
        for log in self._logs:
            log.sync()
        return f"{self.ledger_path.name} cannot be written" if self._ledger.is_waiting else None

    def _newest_row(self) -> Mapping[str, Any]:
        """All lines of the newest step, merged; empty before the first."""
        if self._newest is None:
            *_, self._newest = {}, *_merged(tail_rows(self.metrics_path, keys=_METRICS_KEYS))
        return self._newest


def _sets(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The held-out sets that `rows` have scores of."""
    return {score.set_name for row in rows for name in row if (score := held_out_score(name))}


def _merged(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for _, (row, *more) in groupby(lines, itemgetter("step")):
        for line in more:
            row |= line
        yield row
