"""Consoles and status, read back as text."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import LiveStatus, Standing, WorkerStatus
from maspo_dist.runs.progress import Progress, progress_of
from maspo_dist.runs.rows import Event
from maspo_dist.views.console import LiveConsole, PlainConsole, RunConsole, open_console, progress_panel
from maspo_dist.views.format import format_count, format_duration, format_number
from maspo_dist.views.status import render_status

ROWS: list[dict[str, float | None]] = [
    {"step": 0, "eval/add/avg@1": 0.361},
    {"step": 1, "reward/mean": 0.3, "time/step_s": 2.0},
    {
        "step": 2,
        "reward/mean": 0.5,
        "eval/add/avg@1": 0.5,
        "rollout/tokens_per_s": 6912.0,
        "learner/tokens_per_s": 20_500.0,
        "policy/age_mean": 1.5,
        "time/step_s": 2.0,
        "time/generate_s": 0.9,
        "time/update_s": 0.7,
    },
]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tell(console: RunConsole, rows: Iterable[Mapping[str, float | None]]) -> None:
    for row in rows:
        step = int(row["step"] or 0)
        metrics = {name: value for name, value in row.items() if name != "step" and not name.startswith("eval/")}
        if metrics:
            console.step(step, metrics)
        if scores := {name: value for name, value in row.items() if name.startswith("eval/")}:
            console.scores(step, scores)


def text_of(renderable: RenderableType, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return out.getvalue()


def test_a_job_log_reads_line_by_line() -> None:
    out, clock = io.StringIO(), Clock()
    with PlainConsole("demo", Progress(max_steps=10), out, clock) as console:
        console.waiting_for("rollout workers: 1 of 2 ready")
        clock.now += 5
        console.waiting_for("rollout workers: 1 of 2 ready")
        clock.now += 30
        console.waiting_for("rollout workers: 1 of 2 ready")
        for row in ROWS:
            clock.now += 3
            tell(console, [row])
        console.event(Event(kind="worker_lost", message="rollout-1 was killed [137]"))
        console.finished(Path("runs/demo/report.html"), "rare tokens grow here")
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[:4] == [
        "run demo: 10 steps",
        "start-up 0s: rollout workers: 1 of 2 ready",
        "start-up 35s: rollout workers: 1 of 2 ready",
        "held-out before training: add 0.361 (avg@1)",
    ]
    header, first, second, scores = lines[4:8]
    assert header.split("  ")[-1] == " left"
    assert first.split() == ["1/10", "0.300", "0.361", "+0.000", *"–––", "2.0", *"––––", "18s"]
    assert second.split() == (
        ["2/10", "0.500", "0.361", "+0.000", "6.91k", "20.5k", "1.5", "2.0", "0.9", "–", "0.7", "–", "20s"]
    )
    assert len(header) == len(second) <= 120
    assert scores == "held-out after step 2: add 0.500 (avg@1)"
    assert lines[8] == "worker_lost: rollout-1 was killed [137]"
    assert any("held-out add, avg@1" in line and "+0.139" in line for line in lines)
    assert any("training reward" in line and "+0.200" in line for line in lines)
    assert lines[-3:] == ["regime: rare tokens grow here", "2 of 10 steps, 44s", "report: runs/demo/report.html"]


def test_a_terminal_gets_the_panel_and_a_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_console("demo", 10, stream=io.StringIO()), PlainConsole)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(open_console("demo", 10, stream=terminal), LiveConsole)


@pytest.mark.parametrize("width", [80, 120])
def test_the_panel_fits_its_width_and_shows_everything(width: int) -> None:
    panel = text_of(progress_panel("demo", progress_of(ROWS, 10), "generate 41/64 groups", 92.0), width)
    for part in (
        "demo",
        "step 2/10",
        "1m 32s gone, 16s left",
        "reward 0.500 (from 0.300, +0.200)",
        "held-out add avg@1 0.500 (from 0.361, +0.139)",
        "rollout 6.91k, learner 20.5k",
        "policy age 1.5",
        "step 2.0 s: generate 0.9, verify –, update 0.7, publish –",
        "generate 41/64 groups",
    ):
        assert part in panel
    assert max(map(len, panel.splitlines())) <= width


def test_the_live_console_restores_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = LiveConsole("demo", Progress(max_steps=10), Console(file=out, force_terminal=True, width=100), Clock())
    with pytest.raises(KeyboardInterrupt), console:
        tell(console, ROWS)
        console.phase("update [1/4]")
        console.event(Event(kind="worker_lost", message="rollout-1 [137]"))
        raise KeyboardInterrupt
    assert "update [1/4]" in out.getvalue()
    assert "rollout-1 [137]" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l"), "the cursor is shown again"


@pytest.mark.parametrize("opens", [os.pipe, os.openpty], ids=["a pipe to a reader", "a terminal"])
def test_a_run_goes_on_silently_when_who_reads_its_console_is_gone(
    opens: Callable[[], tuple[int, int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = opens()
    # Python flushes this stream when it is closed, as it flushes standard output when it exits.
    with os.fdopen(writer, "w") as stream, open_console("demo", 10, stream=stream) as console:
        assert isinstance(console, LiveConsole if opens is os.openpty else PlainConsole)
        os.close(reader)
        tell(console, ROWS)
        for _ in range(2):
            console.served_at("http://localhost:9")
            console.event(Event(kind="worker_lost", message="rollout-1 [137]"))
        console.finished(Path("runs/demo/report.html"))
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the run goes on without its console, see `maspo-dist status`"
    ]


def test_progress_of_a_resumed_run_counts_from_its_own_start() -> None:
    progress = progress_of(ROWS, max_steps=10)
    assert (progress.score_start, progress.score_last) == (0.361, 0.5)
    assert (progress.first_reward, progress.last_reward) == (0.3, 0.5)
    assert progress.seconds_left == 16.0


def test_progress_accepts_nulls_and_gaps() -> None:
    progress = progress_of([{"step": 0}, {"step": 1, "reward/mean": None, "eval/add/avg@1": None}], max_steps=0)
    assert progress.scores == {}
    assert progress.seconds_left is None
    assert text_of(progress_panel("demo", progress, "", 0.0))


def test_many_held_out_sets_are_shown_by_their_mean() -> None:
    rows: list[dict[str, float | None]] = [
        {"step": 0, **{f"eval/set{i}/avg@1": 0.1 * i for i in range(6)}},
    ]
    assert "held-out, mean of 6 sets 0.250" in text_of(progress_panel("demo", progress_of(rows, 10), "", 0.0))


def test_status_of_a_finished_run(tmp_path: Path, finished_run: Callable[..., RunFolder]) -> None:
    status = text_of(render_status(finished_run(tmp_path / "demo", steps=12)))
    assert "demo: not running, step 12 of 12" in status
    assert "max_logprob_gap" in status
    assert "trust_region" not in status
    assert "all rewards equal 0" in status
    assert "rollout-1 was killed" in status


def test_status_of_a_live_run_counts_every_group_and_names_the_oldest_wait(folder: RunFolder) -> None:
    standing = Standing(
        step=3,
        phase="update",
        policy_version=3,
        groups_in_flight=5,
        groups_finished=2,
        outcomes=(("admitted", 23), ("dropped", 1), ("trained", 11)),
    )
    worker = WorkerStatus(name="rollout worker 0", state="serving", version=2, groups_in_flight=5, restarts=1)
    waits = (("learner rank 0: update (step 4)", 61.0),)
    LiveStatus(time=0.0, standing=standing, workers=(worker,), waits=waits).write(folder.live_path)
    status = text_of(render_status(folder))
    assert "23: dropped 1, trained 11, in the batch 4, finished 2, in flight 5" in status
    assert "waits 1m 01s for learner rank 0: update (step 4)" in status
    assert "rollout worker 0" in status


def test_status_of_a_run_that_has_only_begun(folder: RunFolder) -> None:
    assert "run: running, step 0 of 0" in text_of(render_status(folder))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.5, "0.5"), (950.0, "950"), (999.6, "1k"), (6912.0, "6.91k"), (1.25e6, "1.25M"), (None, "–")],
)
def test_counts(value: float | None, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(41.6, "42s"), (59.6, "1m 00s"), (92.0, "1m 32s"), (11_100.0, "3h 05m"), (187_200.0, "2d 04h"), (None, "–")],
)
def test_durations(value: float | None, text: str) -> None:
    assert format_duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1e-6, "1.00e-06"), (0.123456, "0.1235"), (19_461.2, "19,461"), (3e6, "3.00e+06"), (None, "–")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert format_number(value) == text
