"""Samples the problems of held-out sets on any pool of workers.

A response depends on its set, problem, number and the seed alone. So scores depend neither on the number of workers
nor on the order in which problems end, and an interrupted evaluation can continue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.ray.waits import cancel_all
from actors.rollout.conversation import Response
from maspo_dist.config import EvaluationConfig
from maspo_dist.data.prompts import PromptSet
from maspo_dist.data.trajectory import turn_rows
from maspo_dist.evaluation.folder import EvaluatedSample, ProblemKey
from maspo_dist.flow.seeds import problem_seed
from maspo_dist.types import Prompt, RolloutRequest, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem of one set. Response i is sampled with `seed` + i."""

    set: str
    prompt: Prompt
    seed: int

    @property
    def key(self) -> ProblemKey:
        return self.set, self.prompt.prompt_id


class EvaluationPool(Protocol):
    """`size` workers that serve the model, numbered from 0."""

    @property
    def size(self) -> int: ...

    async def sample(self, worker: int, request: RolloutRequest) -> Sequence[Response]: ...


def list_problems(sets: Mapping[str, PromptSet], seed: int) -> list[Problem]:
    """Every problem of every set, in order."""
    return [
        Problem(set=name, prompt=prompt, seed=problem_seed(seed, name, prompt.prompt_id))
        for name, prompts in sets.items()
        for prompt in prompts.prompts
    ]


async def sample_problems(
    problems: Sequence[Problem],
    config: EvaluationConfig,
    pool: EvaluationPool,
    on_ended: Callable[[Problem, Sequence[EvaluatedSample]], None],
    decode: Callable[[Sequence[int]], str],
) -> None:
    """Samples each problem once, with at most `rollout.samples_in_flight` responses in flight per worker.

    Calls `on_ended` when a problem ends; `decode` gives the text of its turns. The first failure cancels the other
    problems and is raised.
    """
    waiting = iter(enumerate(problems))
    chosen = config.sampling
    sampling = Sampling(
        temperature=chosen.temperature, max_response_tokens=chosen.max_response_tokens, top_p=chosen.top_p
    )

    async def serve(worker: int) -> None:
        for number, problem in waiting:
            request = RolloutRequest(
                group_id=number,
                prompt=problem.prompt,
                num_samples=chosen.samples,
                sampling=sampling,
                seed=problem.seed,
            )
            on_ended(problem, _rows(problem, await pool.sample(worker, request), decode))

    per_worker = max(1, config.rollout.samples_in_flight // chosen.samples)
    tasks = [asyncio.ensure_future(serve(worker)) for _ in range(per_worker) for worker in range(pool.size)]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_all(tasks)


def _rows(
    problem: Problem, responses: Sequence[Response], decode: Callable[[Sequence[int]], str]
) -> list[EvaluatedSample]:
    return [
        EvaluatedSample(
            set=problem.set,
            prompt_id=problem.prompt.prompt_id,
            sample=number,
            seed=problem.seed + number,
            response=response.rollout.text,
            reference=problem.prompt.reference,
            source=problem.prompt.source,
            reward=response.verdict.reward,
            status=response.verdict.status,
            extracted=response.verdict.extracted,
            seconds=response.verdict.seconds,
            reason=response.verdict.reason,
            finish_reason=response.rollout.finish_reason,
            response_tokens=response.rollout.behavior_logprobs.size,
            turns=turn_rows(response.rollout, response.conversation, decode),
        )
        for number, response in enumerate(responses)
    ]
