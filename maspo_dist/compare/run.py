"""`maspo-dist compare`: every run once, then one report. The same command again continues where it stopped.

    tuning runs ──► each variant's best values ──► runs of the comparison ──► report

runs/<name>/
    <variant>-seed<k>/                ordinary run folders; those of tuning are in tuning/
    <variant>-<tuned values>-seed<k>/ those of tuned variants
    logs/                             the output of each run
    compare.html, results.json

Runs that an earlier comparison has finished can be read from its results.json instead, see `earlier`.
Runs are trained in `jobs` child processes, one run after another in each, see `lane`. A run that fails or is killed
costs that run only: the next run gets another process. If this process is killed, its runs end by themselves: each
saves its state if it keeps checkpoints.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from rich.console import Console

from maspo_dist.compare.earlier import Earlier
from maspo_dist.compare.lane import Lane, last_line
from maspo_dist.compare.outcome import Comparison, RunOutcome, read_outcome, summarise
from maspo_dist.compare.page import render_comparison
from maspo_dist.compare.plan import Plan, PlannedRun, is_finished, make_plan
from maspo_dist.compare.results import results_tree
from maspo_dist.compare.tables import comparison_tables, edge_sentences, tuning_table
from maspo_dist.compare.tuning import TunedVariant, chosen_values, tune
from maspo_dist.errors import ConfigError, RunsFailedError
from maspo_dist.runs.folder import LockedFolder, RunFolder
from maspo_dist.runs.interrupt import Interruption, until_signal
from maspo_dist.runs.jsonl import replace_text
from maspo_dist.views.format import format_duration

#: Exit code of a run with a user error. If no run has finished yet, the others would end with it too.
_USER_ERROR = 2
#: Longest that a run takes to end its processes, once it has saved its state.
_END_S = 60.0
_LOOK_S = 0.2


def compare(plan: Plan, jobs: int, launcher: Sequence[str], console: Console, earlier: Earlier | None = None) -> None:
    """Runs what neither this comparison nor the `earlier` one has finished, at most `jobs` at once.

    It writes the report after each run.

    Raises ConfigError if the first run cannot start, a folder holds something else or no finished run has the score,
    RunsFailedError at the end if runs failed; after a failed tuning run, no run of the comparison starts. Exits 130 or
    143 when interrupted, with every run ended.
    """
    with LockedFolder(plan.folder) as folder:
        folder.lock("another comparison: choose another --name", "set run.dir")
        runs = _Runs(plan, jobs, launcher, console, earlier)
        interrupted = asyncio.run(until_signal(runs.drive))
        if interrupted is not None:
            runs.say(f"interrupted after {runs.progress} runs; the same command goes on")
            raise SystemExit(128 + interrupted)
        for table in comparison_tables(runs.write()):
            console.print(table)
        runs.say(f"report  {runs.page_path}\nfigures {runs.tree_path}")
        runs.warn_of_other_starts()
    if runs.failed:
        log = runs.log_path(runs.failed[0])
        raise RunsFailedError(f"{len(runs.failed)} of {runs.total} runs failed, see {log}: {last_line(log)}")


class _Runs:
    """The runs of one comparison, and the files that they lead to."""

    def __init__(
        self, plan: Plan, jobs: int, launcher: Sequence[str], console: Console, earlier: Earlier | None
    ) -> None:
        self.page_path = plan.folder / "compare.html"
        self.tree_path = plan.folder / "results.json"
        self.failed: list[PlannedRun] = []
        self.total = len(plan.tuning_runs) + len(plan.runs)
        self._plan = plan
        self._earlier = earlier
        #: By folder; None for a run without the score.
        self._finished: dict[Path, RunOutcome | None] = {}
        #: Whether a run of this comparison has finished, now or before.
        self._has_trained = False
        self._tuned: list[TunedVariant] = []
        self._jobs = jobs
        # The launcher must become the command (nice -n 10, flock -F FILE) or pass signals on to it (srun).
        self._command = [*launcher, sys.executable, "-m", "actors.cli", "lane"]
        self._idle_lanes: list[Lane] = []
        self._console = console
        self._read(plan.tuning_runs)
        self._settle()

    @property
    def progress(self) -> str:
        return f"{len(self._finished)} of {self.total}"

    async def drive(self, _: Interruption) -> None:
        """Runs what is not finished: first the tuning runs, then those of the comparison with the tuned values."""
        try:
            await self._run_both_stages()
        finally:
            await asyncio.gather(*(lane.close() for lane in self._idle_lanes))

    async def _run_both_stages(self) -> None:
        self.say(f"{self.total} runs in {self._plan.folder}, {len(self._finished)} finished")
        await self._run_missing(self._plan.tuning_runs)
        self._require_score(self._plan.tuning_runs)
        self._settle()
        if self._tuned:
            self._console.print(tuning_table(self._plan, self._tuned))
            for sentence in edge_sentences(self._tuned):
                self.say(sentence)
        if self.failed:
            return
        if blank := [one.variant for one in self._tuned if one.best is None]:
            measure = self._plan.settings.tune_by
            raise ConfigError(f"tune_by: the tuning runs of {blank[0]} have no {measure}: choose another measure")
        await self._run_missing(self._plan.runs)
        self._require_score(self._plan.runs)

    def log_path(self, run: PlannedRun) -> Path:
        return self._plan.folder / "logs" / f"{run.name}.log"

    def write(self) -> Comparison:
        """Writes page and figures of the finished runs, if one of them has the score or none has finished."""
        has_finished = any(run.folder in self._finished for run in self._plan.runs)
        if not has_finished:
            self._tuned = tune(self._plan, self._finished)
        comparison = summarise(self._plan, self._finished)
        if has_finished and not comparison.variants:
            return comparison
        tree = results_tree(comparison, self._tuned)
        replace_text(self.tree_path, json.dumps(tree, indent=2, allow_nan=False) + "\n")
        replace_text(self.page_path, render_comparison(comparison, self._tuned))
        return comparison

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def warn_of_other_starts(self) -> None:
        """Says where a seed's runs start at another score than those of the earlier comparison."""
        if self._earlier is None:
            return
        known = {folder: outcome for folder, outcome in self._finished.items() if outcome is not None}
        if seeds := self._earlier.differing_starts(self._plan, known):
            named = ", ".join(map(str, seeds))
            self.say(
                f"the runs of seed {named} start at another score than those in {self._earlier.path}: the model, the "
                "data or the machine differs, so their differences are less certain than the tests say"
            )

    def _require_score(self, runs: Sequence[PlannedRun]) -> None:
        """Raises ConfigError if some of `runs` have finished and none of these has the score."""
        outcomes = [self._finished[run.folder] for run in runs if run.folder in self._finished]
        if outcomes and all(outcome is None for outcome in outcomes):
            raise ConfigError(f"score: no finished run has the metric {self._plan.score}: choose another score")

    def _settle(self) -> None:
        """Reads the grids; once all tuning runs are there, plans the comparison with the tuned values."""
        self._tuned = tune(self._plan, self._finished)
        if all(run.folder in self._finished for run in self._plan.tuning_runs):
            self._plan = make_plan(self._plan.settings, self._plan.base, chosen_values(self._tuned))
            self._read(self._plan.runs)

    def _read(self, runs: Sequence[PlannedRun]) -> None:
        """Reads the finished ones of `runs`; a run in this comparison's folder has precedence over the run of the
        earlier comparison.
        """
        if self._earlier is not None:
            planned = {run.folder for run in runs}
            known = self._earlier.outcomes(self._plan)
            self._finished |= {folder: outcome for folder, outcome in known.items() if folder in planned}
        here = {run.folder: read_outcome(run, self._plan) for run in runs if is_finished(run)}
        self._finished |= here
        self._has_trained |= bool(here)

    async def _run_missing(self, runs: Sequence[PlannedRun]) -> None:
        await run_all([run for run in runs if run.folder not in self._finished], self._jobs, self._run)

    async def _run(self, run: PlannedRun) -> None:
        await self._until_left(run)
        self.say(f"{run.name}: started")
        started_s = time.monotonic()
        log = self.log_path(run)
        lane = self._idle_lanes.pop() if self._idle_lanes else Lane(self._command)
        code = await lane.train(run.base, run.overrides, log)
        self._idle_lanes.append(lane)
        took = format_duration(time.monotonic() - started_s)
        if code == _USER_ERROR and not self._has_trained:
            raise ConfigError(f"{run.name} cannot run: {last_line(log).removeprefix('error: ')}")
        if code == 0 and is_finished(run):
            self._has_trained = True
            self._finished[run.folder] = read_outcome(run, self._plan)
            self.say(f"{run.name}: done in {took}, {self.progress}")
            self.write()
        else:
            self.failed.append(run)
            self.say(f"{run.name}: failed with exit code {code} after {took}, see {log}")

    async def _until_left(self, run: PlannedRun) -> None:
        """Waits while a run of an earlier, killed comparison still uses the folder of `run`, at most as long as a run
        may take to stop.
        """
        folder, longest_s = RunFolder(run.folder), run.config.checkpoint.stop_grace_s + _END_S
        if folder.in_use:
            self.say(f"{run.name}: waits until the earlier process has left {run.folder}")
        for _ in range(round(longest_s / _LOOK_S)):
            if not folder.in_use:
                return
            await asyncio.sleep(_LOOK_S)


async def run_all(runs: Sequence[PlannedRun], jobs: int, run_one: Callable[[PlannedRun], Awaitable[None]]) -> None:
    """Awaits `run_one` of all runs in order, at most `jobs` at once. If one raises, the others are cancelled."""
    waiting = iter(runs)

    async def work() -> None:
        for run in waiting:
            await run_one(run)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(jobs, len(runs)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            # A second cancellation would interrupt the clean-up of the first.
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
