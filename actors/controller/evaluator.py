"""Scores of the policy on held-out problems while it trains, through the same workers and verifiers.

An evaluation belongs to one policy version, and does not stop training:

    publish v ──► start(v) ──► held-out groups generate on v ──────────────┐
         └──────► training groups of the next step, update ──► result() ──► publish v + 1

A publish changes the weights under running requests, so `result` is awaited before the next publish. The evaluation
generates during the next step's generation and update, and delays training only if it takes longer than both together.
It starts after the next step's groups are admitted, so its requests queue behind them in the engines. Workers may start
and die meanwhile: all of them hold v, and every response is checked to be of v alone.

The scores of the policy after step s are a row of metrics.jsonl of their own. It is written before the publish of step
s + 1, so rows have the same order and numbers in every run. If a checkpoint is due after step s, `result` is awaited
first. A run that is asked to stop may save a checkpoint whose step has no scores; the resumed run evaluates it first.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actors.interfaces import RolloutPool
from actors.ray.waits import cancel_all, within
from maspo_dist.config import TrainConfig
from maspo_dist.errors import PoisonPromptError, PolicyAgeError
from maspo_dist.evaluation.statistics import avg_at_k, pass_at_k
from maspo_dist.flow.seeds import group_seed
from maspo_dist.runs.rows import Event
from maspo_dist.types import GroupReport, Prompt, RolloutRequest, Sampling

#: Open problems that the name of a wait lists.
_NAMED = 4


@dataclass(eq=False)
class Evaluator:
    """Evaluates every held-out set of `prompts` on one policy version at a time.

    start ──► result      the scores
          └─► cancel      no scores; does nothing if no evaluation runs

    version    the policy version under evaluation; None if no evaluation runs
    achieved   problems ended so far, in all evaluations
    clock      the wall clock that reports carry
    """

    config: TrainConfig
    pool: RolloutPool
    prompts: Mapping[str, Sequence[Prompt]]
    on_event: Callable[[Event], None]
    clock: Callable[[], float] = time.time
    version: int | None = field(init=False, default=None)
    achieved: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        evaluation, rollout = self.config.evaluation, self.config.rollout
        self._sampling = Sampling(
            temperature=evaluation.temperature,
            max_response_tokens=evaluation.max_response_tokens or rollout.max_response_tokens,
        )
        #: At most as many responses in flight as in a training step: more would queue while their deadlines run.
        self._room = asyncio.Semaphore(max(1, rollout.prompts_per_step * rollout.group_size // evaluation.samples))
        self._sets: dict[str, list[asyncio.Task[GroupReport | None]]] = {}
        self._started_s = 0.0

    def start(self, version: int) -> None:
        """Sends the requests; the pool must serve `version` until `result` returns. Raises RuntimeError while another
        evaluation runs.
        """
        if self.version is not None:
            raise RuntimeError(f"evaluation of policy version {self.version} has not ended")
        # Group ids below 0: evaluation groups are not in the ledger.
        ids = itertools.count(-1, -1)
        self._sets = {
            name: [
                asyncio.create_task(self._sample(next(ids), prompt), name=f"{name}: prompt {prompt.prompt_id}")
                for prompt in prompts
            ]
            for name, prompts in self.prompts.items()
        }
        self.version, self._started_s = version, self.clock()

    async def result(self) -> dict[str, float]:
        """Scores of the running evaluation: eval/<name>/avg@k, pass@k, response_tokens_mean, truncated_share and
        unverifiable_share, k = samples, and time/evaluate_s from the first request to the last verdict.

        Every problem must count once. A response without a verdict therefore counts as not solved, and so does a
        problem that was set aside because it killed workers; unverifiable_share reports both.

        Raises DeadlineError when no problem ends within its deadline, PolicyAgeError when a response is of another
        version, RuntimeError when no evaluation runs, and the error that ended a request. No evaluation runs
        afterwards.
        """
        version, started_s = self.version, self._started_s
        if version is None:
            raise RuntimeError("no evaluation was started")
        try:
            tasks = self._tasks()
            for ended in asyncio.as_completed(tasks):
                names = itertools.islice((task.get_name() for task in tasks if not task.done()), _NAMED)
                what = f"evaluation of policy version {version}: the end of a problem, such as {', '.join(names)}"
                await within(self.config.group_deadline_s, what, ended, self.pool.last_token_s)
            metrics: dict[str, float] = {}
            scored_at_s = started_s
            for name, tasks in self._sets.items():
                reports = [report for task in tasks if (report := task.result()) is not None]
                _require_version(version, name, reports)
                scored_at_s = max([scored_at_s, *(report.scored_at_s for report in reports)])
                metrics |= _metrics(f"eval/{name}", reports, len(tasks), self.config.evaluation.samples)
        finally:
            await self.cancel()
        return {**metrics, "time/evaluate_s": scored_at_s - started_s}

    async def cancel(self) -> None:
        """Cancels the running evaluation, if any."""
        tasks = self._tasks()
        self.version, self._sets = None, {}
        await cancel_all(tasks)

    def _tasks(self) -> list[asyncio.Task[GroupReport | None]]:
        return list(itertools.chain.from_iterable(self._sets.values()))

    async def _sample(self, group_id: int, prompt: Prompt) -> GroupReport | None:
        """None if the prompt was set aside because it killed workers."""
        request = RolloutRequest(
            group_id=group_id,
            prompt=prompt,
            num_samples=self.config.evaluation.samples,
            sampling=self._sampling,
            seed=group_seed(self.config.run.seed, -group_id),
        )
        async with self._room:
            try:
                report, _ = await self.pool.generate(request)
            except PoisonPromptError as error:
                self.on_event(Event(kind="prompt_set_aside", message=f"evaluation: {error}"))
                return None
            finally:
                self.achieved += 1
        return report


def _require_version(version: int, name: str, reports: Sequence[GroupReport]) -> None:
    for report in reports:
        for other, _ in report.version_tokens:
            if other != version:
                raise PolicyAgeError(
                    f"evaluation of policy version {version} on {name}: group {report.group_id} holds tokens of "
                    f"version {other}; weights were published before the evaluation had ended"
                )


def _metrics(prefix: str, reports: Sequence[GroupReport], problems: int, samples: int) -> dict[str, float]:
    """Metrics over `problems` problems; a problem without a report counts as unsolved and unverifiable."""
    correct = np.zeros((problems, samples), np.bool_)
    verifiable = np.zeros((problems, samples), np.bool_)
    for place, report in enumerate(reports):
        correct[place] = [verdict.status == "correct" for verdict in report.verdicts]
        verifiable[place] = [verdict.verifiable for verdict in report.verdicts]
    metrics = {
        f"{prefix}/avg@{samples}": avg_at_k(correct),
        f"{prefix}/pass@{samples}": pass_at_k(correct, samples),
        f"{prefix}/unverifiable_share": float(1.0 - verifiable.mean()),
    }
    if reports:
        metrics |= {
            f"{prefix}/response_tokens_mean": float(np.concatenate([r.response_tokens for r in reports]).mean()),
            f"{prefix}/truncated_share": float(np.concatenate([r.truncated for r in reports]).mean()),
        }
    return metrics
