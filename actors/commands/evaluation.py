"""`maspo-dist eval`: a model and held-out sets in, scores and every response out.

    problems ──► a worker with a free slot: engine, then verifier ──► samples.jsonl, one problem per write
                                                                         └── all ended ──► results.json

All sets share one start of the engines. An interrupted evaluation continues where it stopped.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import ray

from actors.commands.backends import require_backends
from actors.controller.run_services import beside
from actors.engines.settings import evaluation_engine
from actors.evaluation.cluster import EvaluationCluster
from actors.evaluation.sampling import Problem, list_problems, sample_problems
from actors.ray.connection import connect, disconnect
from actors.ray.model_on_nodes import for_actors
from maspo_dist.config import EvaluationConfig
from maspo_dist.data.prompts import PromptSet
from maspo_dist.evaluation.folder import (
    EvaluatedSample,
    EvaluationFolder,
    ProblemKey,
    ProblemRow,
    default_folder,
    evaluation_settings,
)
from maspo_dist.evaluation.results import Outcome, SetResults, mean_over_sets, results_tables, score_set
from maspo_dist.models.facts import ModelFacts
from maspo_dist.planning.placement import plan_evaluation
from maspo_dist.planning.preflight import prepare_evaluation
from maspo_dist.runs.interrupt import Interruption, until_signal
from maspo_dist.runs.logs import LogStream, configure_logging
from maspo_dist.views.evaluation import EvaluationConsole
from maspo_dist.views.screen import open_screen

Finished = dict[ProblemKey, tuple[Outcome, ...]]


def evaluate(config: EvaluationConfig, to: Path | None) -> None:
    """Runs to the end and prints the scores; ends every process on any way out; exits 130 or 143 when interrupted.

    Raises UserError for input that cannot run, before anything starts.
    """
    require_backends(config)
    facts, sets = prepare_evaluation(config)
    settings = evaluation_settings(config)
    problems = list(list_problems(sets, config.sampling.seed))
    with EvaluationFolder.open(to or default_folder(settings), settings) as folder:
        configure_logging("evaluate", folder.logs_path, sys.stderr)
        folder.write_problems(_problem_rows(problems, facts))
        finished = folder.finished(config.sampling.samples)
        if len(finished) == len(problems):
            print(f"all {len(problems)} problems are in {folder.path} already: nothing is sampled", file=sys.stderr)
        # Ray prints its errors in spite of its settings; standard output is for the scores.
        with EvaluationConsole(sys.stderr) as progress, redirect_stdout(LogStream()):
            drive = partial(_drive, config, facts, folder, progress, problems, finished)
            interrupted = asyncio.run(until_signal(drive))
        if interrupted is not None:
            print(f"{len(finished)} of {len(problems)} problems are in {folder.path}; repeat the command to continue")
            raise SystemExit(128 + interrupted)
        _print_scores(config, score_sets(sets, finished), folder)


def score_sets(
    sets: Mapping[str, PromptSet], finished: Mapping[ProblemKey, Sequence[Outcome]]
) -> dict[str, SetResults]:
    """Scores of every set, from the outcomes of all its problems."""
    return {
        name: score_set([finished[name, prompt.prompt_id] for prompt in prompts.prompts], prompts.dropped_overlong)
        for name, prompts in sets.items()
    }


async def _drive(
    config: EvaluationConfig,
    facts: ModelFacts,
    folder: EvaluationFolder,
    progress: EvaluationConsole,
    problems: Sequence[Problem],
    finished: Finished,
    interruption: Interruption,
) -> None:
    """Samples the problems that are not in `finished`, and adds them; ends every process on any way out."""
    left = [problem for problem in problems if problem.key not in finished]
    if not left:
        return
    progress.waiting_for("Ray")

    def keep(problem: Problem, rows: Sequence[EvaluatedSample]) -> None:
        folder.append(rows)
        finished[problem.key] = tuple(row.outcome() for row in rows)
        progress.ended(len(finished), len(problems), sum(row.response_tokens for row in rows))

    try:
        device = await asyncio.to_thread(connect, config.model.device)
        # Ray installs signal handlers of its own when it starts.
        interruption.watch_signals()
        bundles = plan_evaluation(config, facts.size, device, int(ray.cluster_resources().get("GPU", 0)))
        placed = for_actors(config)
        cluster = EvaluationCluster(placed, bundles, device, folder.logs_path)
        try:
            longest = max(problem.prompt.token_ids.size for problem in problems)
            await cluster.start(evaluation_engine(placed, longest), progress.waiting_for)
            progress.sampling(len(finished), len(problems))
            await beside(sample_problems(left, config, cluster, keep, facts.tokenizer.decode), cluster.watch())
        finally:
            await asyncio.shield(cluster.stop())
    finally:
        disconnect()


def _print_scores(config: EvaluationConfig, results: dict[str, SetResults], folder: EvaluationFolder) -> None:
    folder.write_results(
        {
            "model": config.model.path,
            "sampling": config.sampling.model_dump(mode="json"),
            "sets": {name: scores.tree() for name, scores in results.items()},
            "mean_over_sets": mean_over_sets(results),
        }
    )
    screen = open_screen()
    for table in results_tables(results):
        screen.print(table)
    screen.print(f"scores  {folder.results_path}", f"samples {folder.samples_path}", sep="\n", markup=False)


def _problem_rows(problems: Sequence[Problem], facts: ModelFacts) -> Iterator[ProblemRow]:
    for problem in problems:
        text = facts.tokenizer.decode(problem.prompt.token_ids.tolist())
        key, reference = problem.prompt.prompt_id, problem.prompt.reference
        yield ProblemRow(set=problem.set, prompt_id=key, prompt=text, reference=reference)
