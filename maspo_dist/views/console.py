"""What the user sees during a run: a live panel in a terminal, one line per step elsewhere."""

import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from maspo_dist.runs.progress import PHASES, Progress
from maspo_dist.runs.rows import Event
from maspo_dist.views.format import format_change, format_count, format_duration, format_score, format_seconds

logger = logging.getLogger(__name__)

_REPEAT_WAIT_S = 30.0
_STEPS_PER_HEADER = 20
_SETS_SHOWN = 3
#: Columns of a step's line after the step: heading and width.
_COLUMNS = (
    *(("reward", 6), ("held-out", 8), ("gain", 6), ("roll tok/s", 10), ("learn tok/s", 11), ("age", 4), ("step s", 6)),
    *((f"{phase[:3]} s", 6) for phase in PHASES),
    ("left", 7),
)


class RunConsole(ABC):
    """What the loop tells the user. Use it as a context manager, which restores the terminal at the end."""

    def __init__(self, run_name: str, progress: Progress, console: Console, clock: Callable[[], float]) -> None:
        self._run_name = run_name
        self._progress = progress
        self._console = console
        self._clock = clock
        self._started_s = clock()
        self._last_step_s: float | None = None

    @abstractmethod
    def waiting_for(self, what: str) -> None:
        """Start-up waits for `what`, such as "rollout workers: 1 of 2 ready"; call it at each poll."""

    @abstractmethod
    def phase(self, text: str) -> None:
        """What the loop does now, such as "generate 41/64 groups"."""

    @abstractmethod
    def event(self, event: Event) -> None:
        """An event that deserves a line of its own."""

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """A step's metrics."""
        now = self._clock()
        # The duration of the first step is unknown: start-up came before it.
        took = None if self._last_step_s is None else now - self._last_step_s
        self._progress = self._progress.after(step, metrics, took)
        self._last_step_s = now

    def scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        """The held-out scores after `step`; 0 is before training."""
        self._progress = self._progress.scored(scores)

    def served_at(self, url: str) -> None:
        """Where Prometheus reads the run's numbers."""
        self._console.print(f"metrics: {url}", highlight=False, soft_wrap=True, markup=False)

    def finished(self, report: Path, regime: str | None = None) -> None:
        """The table of before and after, what the trust region had to do, and the path of the report."""
        self._console.print(outcome_table(self._progress))
        took = format_duration(self._elapsed_s)
        text = f"{self._progress.step} of {self._progress.max_steps} steps, {took}\nreport: {report}"
        if regime is not None:
            text = f"regime: {regime}\n{text}"
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return

    @property
    def _elapsed_s(self) -> float:
        return self._clock() - self._started_s


def open_console(
    run_name: str, max_steps: int, earlier: Progress | None = None, stream: TextIO | None = None
) -> RunConsole:
    """The console that fits `stream` (default: standard output). `earlier` is the progress of a resumed run."""
    progress = earlier or Progress(max_steps=max_steps)
    lasting = cast(TextIO, _LastingStream(stream or sys.stdout))
    console = Console(file=lasting)
    if console.is_terminal:
        return LiveConsole(run_name, progress, console)
    return PlainConsole(run_name, progress, lasting)


class _LastingStream:
    """Writes to `stream` until that fails, as when its terminal or the reader of its pipe is gone; silent from then on.

    All other attributes are those of `stream`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._is_gone:
            return
        try:
            action()
        except OSError as error:
            self._is_gone = True
            logger.warning("the run goes on without its console, see `maspo-dist status`: %s", error)
            # Python writes what is left in its buffer when it exits, and must not fail then.
            with suppress(OSError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


class PlainConsole(RunConsole):
    """Plain lines, for job logs and CI: each is written whole and flushed."""

    def __init__(
        self, run_name: str, progress: Progress, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(run_name, progress, Console(file=stream, width=100, force_terminal=False), clock)
        self._stream = stream
        self._said = ("", 0.0)
        self._lines = 0

    def waiting_for(self, what: str) -> None:
        now = self._clock()
        said, said_s = self._said
        if what != said or now - said_s >= _REPEAT_WAIT_S:
            self._said = (what, now)
            self._line(f"start-up {format_duration(self._elapsed_s)}: {what}")

    def phase(self, text: str) -> None:
        """Prints nothing: the step's line has the seconds of each phase."""

    def event(self, event: Event) -> None:
        self._line(f"{event.kind}: {event.message}")

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        super().step(step, metrics)
        if self._lines % _STEPS_PER_HEADER == 0:
            self._line(_columns(self._progress, "step", (heading for heading, _ in _COLUMNS)))
        self._lines += 1
        self._line(_columns(self._progress, f"{step}/{self._progress.max_steps}", _step_cells(self._progress)))

    def scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        super().scores(step, scores)
        known = ", ".join(f"{name} {one.last:.3f} ({one.measure})" for name, one in self._progress.scores.items())
        self._line(f"held-out {f'after step {step}' if step else 'before training'}: {known or 'none'}")

    def __enter__(self) -> Self:
        self._line(f"run {self._run_name}: {self._progress.max_steps} steps")
        return self

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveConsole(RunConsole):
    """A panel that is redrawn in place; events scroll by above it."""

    def __init__(
        self, run_name: str, progress: Progress, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(run_name, progress, console, clock)
        self._activity = "starting"
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def waiting_for(self, what: str) -> None:
        self._activity = what

    def phase(self, text: str) -> None:
        self._activity = text

    def event(self, event: Event) -> None:
        self._console.print(Text.assemble((event.kind, "yellow"), f": {event.message}"))

    def finished(self, report: Path, regime: str | None = None) -> None:
        self._live.stop()
        super().finished(report, regime)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        return progress_panel(self._run_name, self._progress, self._activity, self._elapsed_s)


def progress_panel(run_name: str, progress: Progress, activity: str, elapsed_s: float) -> Panel:
    """The live panel: how far, how well, how fast."""
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column()
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_row(
        f"step {progress.step}/{progress.max_steps}",
        ProgressBar(total=max(1, progress.max_steps), completed=progress.step),
        f"{format_duration(elapsed_s)} gone, {format_duration(progress.seconds_left)} left",
    )
    lines = Group(bar, *_quality(progress), *(_speed(progress) if progress.step > 0 else ()))
    return Panel(
        lines, title=run_name, title_align="left", subtitle=Text(activity), subtitle_align="left", padding=(0, 1)
    )


def outcome_table(progress: Progress) -> Table:
    """Before and after: each held-out set, then the training reward of the first and last step."""
    table = Table(title="before and after training", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("start", "end", "gain"):
        table.add_column(heading, justify="right")
    rows = [(f"held-out {name}, {one.measure}", one.start, one.last) for name, one in progress.scores.items()]
    for label, start, last in (*rows, ("training reward", progress.first_reward, progress.last_reward)):
        table.add_row(label, format_score(start), format_score(last), format_change(start, last))
    return table


def _columns(progress: Progress, step: str, cells: Iterable[str]) -> str:
    step_width = max(4, 2 * len(str(progress.max_steps)) + 1)
    return "  ".join([step.rjust(step_width), *(cell.rjust(n) for cell, (_, n) in zip(cells, _COLUMNS, strict=True))])


def _step_cells(progress: Progress) -> Iterator[str]:
    """A step in about 110 columns."""
    metric = progress.metrics.get
    yield format_score(metric("reward/mean"))
    yield format_score(progress.score_last)
    yield format_change(progress.score_start, progress.score_last)
    yield format_count(metric("rollout/tokens_per_s"))
    yield format_count(metric("learner/tokens_per_s"))
    yield format_seconds(metric("policy/age_mean"))
    for name in ("step", *PHASES):
        yield format_seconds(metric(f"time/{name}_s"))
    yield format_duration(progress.seconds_left)


def _quality(progress: Progress) -> Iterator[Text]:
    if progress.last_reward is not None:
        yield _from_to("reward", progress.first_reward, progress.last_reward)
    if len(progress.scores) > _SETS_SHOWN:
        yield _from_to(f"held-out, mean of {len(progress.scores)} sets", progress.score_start, progress.score_last)
        return
    for name, one in progress.scores.items():
        yield _from_to(f"held-out {name} {one.measure}", one.start, one.last)


def _from_to(label: str, start: float | None, last: float | None) -> Text:
    change = f" (from {format_score(start)}, {format_change(start, last)})"
    return Text.assemble((f"{label} ", "dim"), (format_score(last), "bold"), (change, "dim"))


def _speed(progress: Progress) -> Iterator[Text]:
    metric = progress.metrics.get
    yield Text.assemble(
        ("tokens/s rollout ", "dim"),
        format_count(metric("rollout/tokens_per_s")),
        (", learner ", "dim"),
        format_count(metric("learner/tokens_per_s")),
        ("   policy age ", "dim"),
        format_seconds(metric("policy/age_mean")),
        (f" (max {format_count(metric('policy/age_max'))})", "dim"),
    )
    phases = ", ".join(f"{phase} {format_seconds(metric(f'time/{phase}_s'))}" for phase in PHASES)
    yield Text.assemble(("step ", "dim"), f"{format_seconds(metric('time/step_s'))} s", (f": {phases}", "dim"))
