"""`maspo-dist compare`: every run once, then one report. The same command again continues where it stopped.

runs/<name>/
    <variant>-seed<k>/   ordinary run folders
    logs/                the output of each run
    compare.html, compare.json
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from maspo_dist.compare.outcome import Comparison, comparison_tables, comparison_tree, summarise
from maspo_dist.compare.page import render_comparison
from maspo_dist.compare.plan import Plan, PlannedRun, is_finished
from maspo_dist.compare.processes import last_line, run_all, train_command
from maspo_dist.errors import ConfigError, RunsFailedError
from maspo_dist.runs.folder import LockedFolder
from maspo_dist.runs.interrupt import WatchSignals, until_signal
from maspo_dist.runs.jsonl import replace_text
from maspo_dist.views.format import format_duration

#: Exit code of a run with a user error, which would stop the other runs too.
_USER_ERROR = 2


def compare(plan: Plan, jobs: int, launcher: Sequence[str], console: Console) -> None:
    """Runs what has not finished, at most `jobs` at once, and writes the report after each.

    Raises ConfigError if a run cannot start or a folder holds something else, RunsFailedError at the end if runs
    failed. Exits 130 or 143 when interrupted, with every run ended.
    """
    with LockedFolder(plan.folder) as folder:
        folder.lock("another comparison: choose another --name", "set run.dir")
        runs = _Runs(plan, jobs, launcher, console)
        interrupted = asyncio.run(until_signal(runs.drive))
        if interrupted is not None:
            runs.say(f"interrupted after {len(runs.finished)} of {len(plan.runs)} runs; the same command goes on")
            raise SystemExit(128 + interrupted)
        for table in comparison_tables(runs.write()):
            console.print(table)
        runs.say(f"report  {runs.page_path}\nfigures {runs.tree_path}")
    if runs.failed:
        log = runs.log_path(runs.failed[0])
        raise RunsFailedError(f"{len(runs.failed)} of {len(plan.runs)} runs failed, see {log}: {last_line(log)}")


class _Runs:
    """The runs of one comparison, and the files that they lead to."""

    def __init__(self, plan: Plan, jobs: int, launcher: Sequence[str], console: Console) -> None:
        self.page_path = plan.folder / "compare.html"
        self.tree_path = plan.folder / "compare.json"
        self.finished = [run for run in plan.runs if is_finished(run)]
        self.failed: list[PlannedRun] = []
        self._plan = plan
        self._jobs = jobs
        self._launcher = launcher
        self._console = console
        self._started_s: dict[str, float] = {}

    async def drive(self, _: WatchSignals) -> None:
        """Runs what is not in `finished`."""
        self.say(f"{len(self._plan.runs)} runs in {self._plan.folder}, {len(self.finished)} finished")
        left = [run for run in self._plan.runs if run not in self.finished]
        await run_all(left, self._jobs, self._start, self.log_path, self._ended)

    def log_path(self, run: PlannedRun) -> Path:
        return self._plan.folder / "logs" / f"{run.name}.log"

    def write(self) -> Comparison:
        """Writes page and figures of the finished runs."""
        comparison = summarise(self._plan, [run for run in self._plan.runs if run in self.finished])
        replace_text(self.tree_path, json.dumps(comparison_tree(comparison), indent=2, allow_nan=False) + "\n")
        replace_text(self.page_path, render_comparison(comparison))
        return comparison

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _start(self, run: PlannedRun) -> list[str]:
        self._started_s[run.name] = time.monotonic()
        self.say(f"{run.name}: started")
        return train_command(run, self._launcher)

    def _ended(self, run: PlannedRun, code: int) -> None:
        took = format_duration(time.monotonic() - self._started_s[run.name])
        log = self.log_path(run)
        if code == _USER_ERROR:
            raise ConfigError(f"{run.name} cannot run: {last_line(log).removeprefix('error: ')}")
        if code == 0 and is_finished(run):
            self.finished.append(run)
            self.say(f"{run.name}: done in {took}, {len(self.finished)} of {len(self._plan.runs)}")
            self.write()
        else:
            self.failed.append(run)
            self.say(f"{run.name}: failed with exit code {code} after {took}, see {log}")
