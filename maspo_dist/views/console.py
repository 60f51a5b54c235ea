"""What the user sees while a run is on: a live panel in a terminal, one line a step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from maspo_dist.runs.progress import PHASES, Progress, progress_of
from maspo_dist.types import Event
from maspo_dist.views.format import format_change, format_count, format_duration, format_score, format_seconds

_REPEAT_WAIT_S = 30.0
_STEPS_A_HEADER = 20
_SETS_SHOWN = 3
_SHORT = tuple(f"{phase[:3]} s" for phase in PHASES)


class RunConsole(Protocol):
    """What the loop tells the user. Use it as a context manager: leaving gives the terminal back."""

    def waiting_for(self, what: str) -> None:
        """Start-up stands still until `what`, such as "rollout workers: 1 of 2 ready"; call it at each poll."""

    def phase(self, text: str) -> None:
        """What the loop does now, such as "generate 41/64 groups"."""

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """A step's metrics."""

    def scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        """The held-out scores after `step`; 0 is before training."""

    def event(self, event: Event) -> None:
        """Something worth a line of its own."""

    def finished(self, report: Path) -> None:
        """The table of before and after, and where the report lies."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_console(
    run_name: str,
    max_steps: int,
    earlier_rows: Iterable[Mapping[str, float | None]] = (),
    stream: TextIO | None = None,
) -> RunConsole:
    """The console that fits `stream` (standard output by default).

    `earlier_rows` of metrics.jsonl on resume, so that "from" means the run's own start.
    """
    progress = progress_of(earlier_rows, max_steps)
    stream = stream or sys.stdout
    console = Console(file=stream)
    if console.is_terminal:
        return LiveConsole(run_name, progress, console)
    return PlainConsole(run_name, progress, stream)


class PlainConsole:
    """Plain lines, for job logs and CI: each is written whole and flushed."""

    def __init__(
        self, run_name: str, progress: Progress, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_name = run_name
        self._progress = progress
        self._stream = stream
        self._clock = clock
        self._started_s = clock()
        self._last_step_s: float | None = None
        self._waiting = ("", 0.0)
        self._lines = 0

    def waiting_for(self, what: str) -> None:
        now = self._clock()
        said, said_s = self._waiting
        if what != said or now - said_s >= _REPEAT_WAIT_S:
            self._waiting = (what, now)
            self._line(f"start-up {format_duration(now - self._started_s)}: {what}")

    def phase(self, text: str) -> None:
        """Says nothing: the step's line has the seconds of each phase."""

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        now = self._clock()
        self._progress = self._progress.after(step, metrics, _since(self._last_step_s, now))
        self._last_step_s = now
        if self._lines % _STEPS_A_HEADER == 0:
            self._line(step_header(self._progress))
        self._lines += 1
        self._line(step_line(self._progress))

    def scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._progress = self._progress.scored(scores)
        self._line(scores_line(self._progress, step))

    def event(self, event: Event) -> None:
        self._line(f"{event.kind}: {event.message}")

    def finished(self, report: Path) -> None:
        plain = Console(file=self._stream, width=100, force_terminal=False)
        plain.print(outcome_table(self._progress))
        for line in closing_lines(self._progress, self._clock() - self._started_s, report):
            self._line(line)

    def __enter__(self) -> Self:
        self._line(f"run {self._run_name}: {self._progress.max_steps} steps")
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveConsole:
    """A panel that is redrawn in place; events scroll by above it."""

    def __init__(
        self, run_name: str, progress: Progress, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_name = run_name
        self._progress = progress
        self._console = console
        self._clock = clock
        self._started_s = clock()
        self._last_step_s: float | None = None
        self._activity = "starting"
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def waiting_for(self, what: str) -> None:
        self._activity = what

    def phase(self, text: str) -> None:
        self._activity = text

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        now = self._clock()
        self._progress = self._progress.after(step, metrics, _since(self._last_step_s, now))
        self._last_step_s = now

    def scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        self._progress = self._progress.scored(scores)

    def event(self, event: Event) -> None:
        self._console.print(Text.assemble((event.kind, "yellow"), f": {event.message}"))

    def finished(self, report: Path) -> None:
        self._live.stop()
        self._console.print(outcome_table(self._progress))
        for line in closing_lines(self._progress, self._clock() - self._started_s, report):
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        elapsed = self._clock() - self._started_s
        return progress_panel(self._run_name, self._progress, self._activity, elapsed)


def step_header(progress: Progress) -> str:
    """Headings over `step_line`, with units."""
    return _columns(
        progress, "step", "reward", "held-out", "gain", "roll tok/s", "learn tok/s", "age", "step s", *_SHORT, "left"
    )


def step_line(progress: Progress) -> str:
    """A step in about 110 columns."""
    metric = progress.metric
    return _columns(
        progress,
        f"{progress.step}/{progress.max_steps}",
        format_score(metric("reward/mean")),
        format_score(progress.score_last),
        format_change(progress.score_start, progress.score_last),
        format_count(metric("rollout/tokens_per_s")),
        format_count(metric("learner/tokens_per_s")),
        format_seconds(metric("policy/age_mean")),
        format_seconds(metric("time/step_s")),
        *(format_seconds(metric(f"time/{phase}_s")) for phase in PHASES),
        format_duration(progress.seconds_left),
    )


def _columns(progress: Progress, step: str, *cells: str) -> str:
    step_width = max(4, 2 * len(str(progress.max_steps)) + 1)
    widths = (6, 8, 6, 10, 11, 4, 6, *(6 for _ in PHASES), 7)
    return "  ".join([step.rjust(step_width), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])


def scores_line(progress: Progress, step: int) -> str:
    """The held-out scores after `step`."""
    scores = ", ".join(f"{name} {score.last:.3f} ({score.measure})" for name, score in progress.scores.items())
    return f"held-out {f'after step {step}' if step else 'before training'}: {scores or 'none'}"


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
    lines: list[RenderableType] = [bar]
    lines += _quality(progress)
    if progress.step > 0:
        lines += [_speed(progress), _times(progress)]
    return Panel(
        Group(*lines),
        title=run_name,
        title_align="left",
        subtitle=Text(activity),
        subtitle_align="left",
        padding=(0, 1),
    )


def outcome_table(progress: Progress) -> Table:
    """Before and after: each held-out set, then the training reward of the first and last step."""
    table = Table(title="before and after training", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("start", "end", "gain"):
        table.add_column(heading, justify="right")
    for name, score in progress.scores.items():
        table.add_row(
            f"held-out {name}, {score.measure}",
            format_score(score.start),
            format_score(score.last),
            format_change(score.start, score.last),
        )
    first, last = progress.first_reward, progress.last_reward
    table.add_row("training reward", format_score(first), format_score(last), format_change(first, last))
    return table


def closing_lines(progress: Progress, elapsed_s: float, report: Path) -> tuple[str, ...]:
    return (f"{progress.step} of {progress.max_steps} steps, {format_duration(elapsed_s)}", f"report: {report}")


def _since(earlier_s: float | None, now_s: float) -> float | None:
    """Seconds of a step; unknown for a process's first, which start-up came before."""
    return None if earlier_s is None else now_s - earlier_s


def _quality(progress: Progress) -> Iterator[Text]:
    if progress.last_reward is not None:
        yield _from_to("reward", progress.first_reward, progress.last_reward)
    if len(progress.scores) > _SETS_SHOWN:
        yield _from_to(f"held-out, mean of {len(progress.scores)} sets", progress.score_start, progress.score_last)
        return
    for name, score in progress.scores.items():
        yield _from_to(f"held-out {name} {score.measure}", score.start, score.last)


def _from_to(label: str, start: float | None, last: float | None) -> Text:
    change = f" (from {format_score(start)}, {format_change(start, last)})"
    return Text.assemble((f"{label} ", "dim"), (format_score(last), "bold"), (change, "dim"))


def _speed(progress: Progress) -> Text:
    metric = progress.metric
    return Text.assemble(
        ("tokens/s rollout ", "dim"),
        format_count(metric("rollout/tokens_per_s")),
        (", learner ", "dim"),
        format_count(metric("learner/tokens_per_s")),
        ("   policy age ", "dim"),
        format_seconds(metric("policy/age_mean")),
        (f" (max {format_count(metric('policy/age_max'))})", "dim"),
    )


def _times(progress: Progress) -> Text:
    total = format_seconds(progress.metric("time/step_s"))
    phases = ", ".join(f"{phase} {format_seconds(progress.metric(f'time/{phase}_s'))}" for phase in PHASES)
    return Text.assemble(("step ", "dim"), f"{total} s", (f": {phases}", "dim"))
