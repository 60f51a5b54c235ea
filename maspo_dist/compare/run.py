"""`maspo-dist compare`: every run once, then one report. The same command again continues where it stopped.

runs/<name>/
    <variant>-seed<k>/   ordinary run folders
    logs/                what each run printed
    compare.html, compare.json
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from maspo_dist.compare.outcome import comparison_tables, comparison_tree, summarise
from maspo_dist.compare.page import render_comparison
from maspo_dist.compare.plan import Plan, PlannedRun, is_finished
from maspo_dist.compare.processes import last_line, run_all, train_command
from maspo_dist.errors import ConfigError, RunsFailedError
from maspo_dist.runs.folder import lock_folder
from maspo_dist.runs.interrupt import until_signal
from maspo_dist.runs.jsonl import replace_text
from maspo_dist.views.format import format_duration

#: Exit code of a run with a user error, which would stop the other runs too.
_USER_ERROR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOutput:
    """Where a comparison leaves its files."""

    folder: Path

    @property
    def page_path(self) -> Path:
        return self.folder / "compare.html"

    @property
    def tree_path(self) -> Path:
        return self.folder / "compare.json"

    def log_path(self, run: PlannedRun) -> Path:
        return self.folder / "logs" / f"{run.name}.log"


def compare(plan: Plan, jobs: int, launcher: Sequence[str], console: Console) -> None:
    """Runs what has not finished, at most `jobs` at once, and writes the report after each.

    Raises ConfigError when a run cannot start or a folder holds something else, RunsFailedError at the
    end when runs failed. Exits 130 or 143 when interrupted, with every run ended.
    """
    output = CompareOutput(folder=plan.folder)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(plan.folder, f"{plan.folder} is in use by another comparison: choose another --name")
    except OSError as error:
        raise ConfigError(f"{plan.folder} cannot be written ({error.strerror}); set run.dir") from None
    with lock:
        finished = [run for run in plan.runs if is_finished(run)]
        left = [run for run in plan.runs if run not in finished]
        console.print(f"{len(plan.runs)} runs in {plan.folder}, {len(finished)} finished", highlight=False)
        failed: list[PlannedRun] = []
        work = _run_left(plan, left, finished, failed, output, jobs, launcher, console)
        interrupted = asyncio.run(until_signal(lambda _: work))
        if interrupted is not None:
            console.print(f"interrupted after {len(finished)} of {len(plan.runs)} runs; the same command goes on")
            raise SystemExit(128 + interrupted)
        _write(plan, finished, output)
        for table in comparison_tables(summarise(plan, finished)):
            console.print(table)
        console.print(f"report  {output.page_path}\nfigures {output.tree_path}", highlight=False)
    if failed:
        raise RunsFailedError(
            f"{len(failed)} of {len(plan.runs)} runs failed, see {output.log_path(failed[0])}: "
            f"{last_line(output.log_path(failed[0]))}"
        )


async def _run_left(
    plan: Plan,
    left: Sequence[PlannedRun],
    finished: list[PlannedRun],
    failed: list[PlannedRun],
    output: CompareOutput,
    jobs: int,
    launcher: Sequence[str],
    console: Console,
) -> None:
    loop = asyncio.get_running_loop()
    started_s: dict[str, float] = {}

    def start(run: PlannedRun) -> list[str]:
        started_s[run.name] = loop.time()
        console.print(f"{run.name}: started", highlight=False)
        return train_command(run, launcher)

    def ended(run: PlannedRun, code: int) -> None:
        took = format_duration(loop.time() - started_s[run.name])
        log = output.log_path(run)
        if code == _USER_ERROR:
            raise ConfigError(f"{run.name} cannot run: {last_line(log).removeprefix('error: ')}")
        if code != 0 or not is_finished(run):
            failed.append(run)
            console.print(f"{run.name}: failed with exit code {code} after {took}, see {log}", highlight=False)
            return
        finished.append(run)
        console.print(f"{run.name}: done in {took}, {len(finished)} of {len(plan.runs)}", highlight=False)
        _write(plan, finished, output)

    await run_all(left, jobs, start, output.log_path, ended)


def _write(plan: Plan, finished: Sequence[PlannedRun], output: CompareOutput) -> None:
    comparison = summarise(plan, [run for run in plan.runs if run in finished])
    replace_text(output.tree_path, json.dumps(comparison_tree(comparison), indent=2, allow_nan=False) + "\n")
    replace_text(output.page_path, render_comparison(comparison))
