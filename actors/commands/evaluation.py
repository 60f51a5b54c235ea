"""A standalone evaluation: model and held-out sets in, scores and every sample out.

    problems ──next──► a worker's free slot ──► engine ──► verifier ──► samples.jsonl (a problem at a time)
                                                                            └── all ended ──► results.json

All sets go through one start of the engines. What a response draws from depends on its set, problem and
number alone, so that scores depend neither on the number of workers nor on who finishes first, and an
interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ray
from rich.console import Console

from actors.controller.group_stream import group_seed
from actors.controller.run_services import beside
from actors.engines.settings import evaluation_engine
from actors.evaluation.cluster import EvaluationCluster
from actors.ray.connection import connect, disconnect
from maspo_dist.config import EvaluationConfig
from maspo_dist.data.prompts import ContextLimit, PromptSet, load_prompts
from maspo_dist.errors import DataError
from maspo_dist.evaluation.folder import (
    EvaluatedSample,
    EvaluationFolder,
    ProblemKey,
    ProblemRow,
    default_folder,
    evaluation_settings,
)
from maspo_dist.evaluation.results import Outcome, SetResults, mean_over_sets, results_tables, score_set
from maspo_dist.models.facts import ModelFacts, read_model_facts
from maspo_dist.planning.placement import plan_evaluation
from maspo_dist.runs.interrupt import WatchSignals, until_signal
from maspo_dist.runs.logs import LogContext, LogStream, configure_logging
from maspo_dist.types import Prompt, Rollout, RolloutRequest, Sampling, Verdict
from maspo_dist.views.evaluation import EvaluationConsole


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem of one set. Its responses draw from `seed`, `seed` + 1, …"""

    set: str
    prompt: Prompt
    seed: int

    @property
    def key(self) -> ProblemKey:
        return self.set, self.prompt.prompt_id


class EvaluationPool(Protocol):
    """Workers that serve the model; `size` of them, numbered from 0."""

    @property
    def size(self) -> int: ...

    async def sample(self, worker: int, request: RolloutRequest) -> Sequence[tuple[Rollout, Verdict]]: ...


def evaluate(config: EvaluationConfig, to: Path | None) -> None:
    """Runs to the end and prints the table; leaves no process behind, whatever happens.

    Raises UserError where the input cannot run, before anything starts. Exits 130 or 143 when interrupted.
    """
    facts = read_model_facts(config.model)
    sets = _load_sets(config, facts)
    settings = evaluation_settings(config)
    problems = list(list_problems(sets, config.sampling.seed))
    screen = Console(soft_wrap=True)
    with EvaluationFolder.open(to or default_folder(settings), settings) as folder:
        configure_logging(LogContext("evaluate"), folder.logs_path, sys.stderr)
        folder.write_problems(_problem_rows(problems, facts))
        finished = folder.finished(config.sampling.samples)
        # Ray prints its errors whatever it is told; standard output is for the scores.
        with EvaluationConsole(sys.stderr) as progress, redirect_stdout(LogStream()):
            run = _Run(config, facts, folder, progress)
            interrupted = asyncio.run(until_signal(lambda watch: run.drive(problems, finished, watch)))
        if interrupted is not None:
            print(f"{len(finished)} of {len(problems)} problems are in {folder.path}; run it again to go on there")
            raise SystemExit(128 + interrupted)
        results = score_sets(sets, finished)
        folder.write_results(
            {
                "model": config.model.path,
                "sampling": config.sampling.model_dump(mode="json"),
                "sets": {name: one.tree() for name, one in results.items()},
                "mean_over_sets": mean_over_sets(results),
            }
        )
        for table in results_tables(results):
            screen.print(table)
        screen.print(f"scores  {folder.results_path}", f"samples {folder.samples_path}", sep="\n", markup=False)


def list_problems(sets: Mapping[str, PromptSet], seed: int) -> Iterator[Problem]:
    """Every problem of every set, in order."""
    for name, prompts in sets.items():
        for prompt in prompts.prompts:
            yield Problem(set=name, prompt=prompt, seed=problem_seed(seed, name, prompt.prompt_id))


def problem_seed(seed: int, set_name: str, prompt_id: str) -> int:
    """Seed of a problem's first response; the same whatever else is evaluated, and wherever."""
    digest = hashlib.sha256(f"{set_name}\0{prompt_id}".encode()).digest()
    return group_seed(seed, int.from_bytes(digest[:8], "big"))


async def sample_problems(
    problems: Sequence[Problem],
    config: EvaluationConfig,
    pool: EvaluationPool,
    on_ended: Callable[[Problem, Sequence[EvaluatedSample]], None],
) -> None:
    """Samples each problem once; every worker has at most `rollout.samples_in_flight` responses open.

    `on_ended` is called as problems end. The first failure ends the others and is raised.
    """
    waiting = iter(enumerate(problems))
    sampling = Sampling(
        temperature=config.sampling.temperature,
        max_response_tokens=config.sampling.max_response_tokens,
        top_p=config.sampling.top_p,
    )
    slots = max(1, config.rollout.samples_in_flight // config.sampling.samples)

    async def serve(worker: int) -> None:
        for number, problem in waiting:
            request = RolloutRequest(
                group_id=number,
                attempt=0,
                prompt=problem.prompt,
                num_samples=config.sampling.samples,
                sampling=sampling,
                seed=problem.seed,
            )
            on_ended(problem, _rows(problem, await pool.sample(worker, request)))

    tasks = [asyncio.ensure_future(serve(worker)) for _ in range(slots) for worker in range(pool.size)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def score_sets(
    sets: Mapping[str, PromptSet], finished: Mapping[ProblemKey, Sequence[Outcome]]
) -> dict[str, SetResults]:
    """Scores of every set, from the outcomes of all its problems."""
    return {
        name: score_set([finished[name, prompt.prompt_id] for prompt in prompts.prompts], prompts.dropped_overlong)
        for name, prompts in sets.items()
    }


class _Run:
    """The processes of one evaluation."""

    def __init__(
        self, config: EvaluationConfig, facts: ModelFacts, folder: EvaluationFolder, progress: EvaluationConsole
    ) -> None:
        self._config = config
        self._facts = facts
        self._folder = folder
        self._progress = progress

    async def drive(
        self,
        problems: Sequence[Problem],
        finished: dict[ProblemKey, tuple[Outcome, ...]],
        watch_signals: WatchSignals,
    ) -> None:
        """Samples what is not in `finished`, and enters it there; ends every process on any way out."""
        left = [problem for problem in problems if problem.key not in finished]
        if not left:
            return
        config = self._config
        self._progress.waiting_for("Ray")
        try:
            device = await asyncio.to_thread(connect, config.model.device)
            # Ray takes the signals for itself when it starts.
            watch_signals()
            gpus = int(ray.cluster_resources().get("GPU", 0))
            cluster = EvaluationCluster(
                config, plan_evaluation(config, self._facts.size, device, gpus), device, self._folder.logs_path
            )
            try:
                longest = max(problem.prompt.token_ids.size for problem in problems)
                await cluster.start(evaluation_engine(config, longest), self._progress.waiting_for)
                self._progress.sampling(len(finished), len(problems))

                def keep(problem: Problem, rows: Sequence[EvaluatedSample]) -> None:
                    self._folder.append(rows)
                    finished[problem.key] = tuple(row.outcome() for row in rows)
                    self._progress.ended(len(finished), len(problems), sum(row.response_tokens for row in rows))

                await beside(sample_problems(left, config, cluster, keep), cluster.watch_verifier())
            finally:
                await asyncio.shield(cluster.stop())
        finally:
            disconnect()


def _load_sets(config: EvaluationConfig, facts: ModelFacts) -> dict[str, PromptSet]:
    context = facts.size.context_tokens
    response = config.sampling.max_response_tokens
    if response >= context:
        raise DataError(
            f"sampling.max_response_tokens ({response}) leaves no room for a prompt in the context of "
            f"{config.model.path} ({context} tokens): lower it"
        )
    limit = ContextLimit(context_tokens=context, response_tokens=response)
    return {
        name: load_prompts([data_set], config.data, facts.tokenizer, limit)
        for name, data_set in config.data.sets.items()
    }


def _problem_rows(problems: Sequence[Problem], facts: ModelFacts) -> Iterator[ProblemRow]:
    for problem in problems:
        yield ProblemRow(
            set=problem.set,
            prompt_id=problem.prompt.prompt_id,
            prompt=facts.tokenizer.decode(problem.prompt.token_ids.tolist()),
            reference=problem.prompt.reference,
        )


def _rows(problem: Problem, samples: Sequence[tuple[Rollout, Verdict]]) -> list[EvaluatedSample]:
    return [
        EvaluatedSample(
            set=problem.set,
            prompt_id=problem.prompt.prompt_id,
            sample=number,
            seed=problem.seed + number,
            response=rollout.text,
            reference=problem.prompt.reference,
            source=problem.prompt.source,
            reward=verdict.reward,
            status=verdict.status,
            extracted=verdict.extracted,
            seconds=verdict.seconds,
            reason=verdict.reason,
            finish_reason=rollout.finish_reason,
            response_tokens=rollout.response_ids.size,
        )
        for number, (rollout, verdict) in enumerate(samples)
    ]
