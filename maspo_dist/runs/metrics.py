"""Writes the metrics of a step to metrics.jsonl, TensorBoard and Weights & Biases."""

import contextlib
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from maspo_dist.config import LoggingConfig, WandbConfig
from maspo_dist.errors import ConfigError
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.rows import Event

logger = logging.getLogger(__name__)

_METRIC_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9._@-]+)+")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._@-]+")

try:
    import wandb as _wandb
except ImportError:
    _wandb = None


class MetricSink(Protocol):
    """A store of metrics. Values are finite, or None where a number was NaN or infinite."""

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None: ...

    def close(self) -> None: ...


class JsonlSink:
    """metrics.jsonl of the run folder. `close` leaves the folder open: its owner closes it."""

    def __init__(self, folder: RunFolder) -> None:
        self.write = folder.write_metrics

    def close(self) -> None: ...


class TensorBoardSink:
    """TensorBoard event files. Steps after `after_step` that were written before are hidden."""

    def __init__(self, path: Path, after_step: int = 0) -> None:
        self._path = path
        self._writer: EventFileWriter | None = None
        #: Events that come before the next step.
        self._first: list[TensorBoardEvent] = []
        if path.is_dir() and any(path.iterdir()):
            start = SessionLog(status=SessionLog.START)
            self._first = [TensorBoardEvent(wall_time=time.time(), step=after_step + 1, session_log=start)]

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items() if value is not None]
        row = TensorBoardEvent(wall_time=time.time(), step=step, summary=Summary(value=values))
        try:
            if self._writer is None:
                self._writer = EventFileWriter(str(self._path))
            for event in (*self._first, row):
                self._writer.add_event(event)
            self._writer.flush()
        except OSError:
            # Its thread has ended: the next step needs another writer, with a file of its own.
            self.close()
            raise
        self._first = []

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()


class WandbSink:
    """A Weights & Biases run named like the run folder. Raises ConfigError if wandb is not installed.

    The step is a value of each row: wandb's own step only grows, so it would drop what a resumed run trains again.
    """

    def __init__(self, settings: WandbConfig, folder: RunFolder, config: Mapping[str, object]) -> None:
        self._run = _require_wandb().init(
            project=settings.project,
            entity=settings.entity,
            mode=settings.mode,
            name=folder.name,
            # The same id on resume, so that the curves continue.
            id=re.sub(r"[^A-Za-z0-9_-]", "-", folder.name),
            resume="allow",
            dir=str(folder.logs_path),
            config=dict(config),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        values = {name: value for name, value in metrics.items() if value is not None}
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class MetricFanout:
    """Checks a step's metrics and writes them to every sink.

    A number that is not finite becomes None, and one event per step names all such numbers. A sink that cannot write
    (disk full) loses its line and logs a warning; the run goes on.
    """

    def __init__(self, sinks: Sequence[MetricSink], on_event: Callable[[Event], None]) -> None:
        self._sinks = sinks
        self._on_event = on_event

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises ValueError for a name that is not of the form group/name."""
        checked = check_metrics(metrics)
        lost = ", ".join(f"{name} ({metrics[name]})" for name, value in checked.items() if value is None)
        if lost:
            self._on_event(Event(kind="metric_not_finite", message=f"not finite: {lost}", details=(("step", step),)))
        for sink in self._sinks:
            try:
                sink.write(step, checked)
            except OSError as error:
                logger.warning("metrics of step %d not written by %s: %s", step, type(sink).__name__, error)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def metric_part(name: str) -> str:
    """A name that a user chose, as one part of a metric's name: each run of other characters becomes `_`.

    Two names can become equal: the caller decides which value the metric then has. The empty name becomes `_`.
    """
    # An environment may name its numbers by numbers.
    return _NOT_IN_A_NAME.sub("_", str(name)) or "_"


def check_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON can represent them: plain floats, None for NaN and infinities, in the given order.

    Raises ValueError for a name that is not of the form group/name, TypeError for a value that is not a number.
    """
    for name in metrics:
        if not _METRIC_NAME.fullmatch(name):
            raise ValueError(f"metric name {name!r} is not of the form group/name")
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def require_sinks(settings: LoggingConfig) -> None:
    """Raises ConfigError if a configured sink is not installed; call it before anything starts."""
    if settings.wandb is not None:
        _require_wandb()


def open_metrics(
    folder: RunFolder,
    settings: LoggingConfig,
    config: Mapping[str, object],
    after_step: int = 0,
    more: Sequence[MetricSink] = (),
) -> MetricFanout:
    """The sinks of `settings` and `more`; steps after `after_step` are written again. Raises as `require_sinks`."""
    sinks: list[MetricSink] = [JsonlSink(folder)]
    if settings.tensorboard:
        sinks.append(TensorBoardSink(folder.tensorboard_path, after_step))
    if settings.wandb is not None:
        sinks.append(WandbSink(settings.wandb, folder, config))
    return MetricFanout([*sinks, *more], folder.write_event)


def _require_wandb() -> ModuleType | Any:
    if _wandb is None:
        fix = "pip install 'maspo-dist[wandb]', or unset it"
        raise ConfigError(f"logging.wandb is set but wandb is not installed: {fix}")
    return _wandb
