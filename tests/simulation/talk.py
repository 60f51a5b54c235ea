"""Conversations of a simulated worker: the real loop of turns, with an engine and environments that only take time.

Turns depend on the seed and the policy version, answers on the task and what was said.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from doubles.environments import ScriptedHost
from doubles.loop import FakeScorer

from actors.rollout.conversation import Partner, finished_group, respond
from maspo_dist.config import EnvironmentConfig, VerifierConfig
from maspo_dist.data.conversation import Heard
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import EnvironmentFailedError, EnvironmentLostError
from maspo_dist.reward.unverifiable import UnverifiableMonitor
from maspo_dist.types import GroupReport, IntArray, Rollout, RolloutGroup, RolloutRequest, Sampling

#: Sections of a configuration whose responses are conversations. Lengths without what was heard would overfill such
#: small micro-batches.
TALKING: dict[str, dict[str, object]] = {
    "environment": {"kind": "python:talk:Simulated", "max_turns": 3},
    "learner": {"micro_batch_tokens": 24},
}

_TURN_END, _OTHER_END, _HEARD = 2, 3, 7
#: Prompts of the held-out set have larger numbers. Their environments do not fail.
_HELD_OUT = 1000


class Talker:
    """Responds for one worker: `serving` gives its policy version once it can sample, `work` takes time or raises.

    `host` keeps all sessions. Some steps lose their environment when they are first taken.
    """

    def __init__(
        self,
        config: EnvironmentConfig,
        serving: Callable[[], Awaitable[int]],
        work: Callable[[float], Awaitable[None]],
    ) -> None:
        self.host = ScriptedHost(self._answer, wait_s=1.0)
        self._lost: set[str] = set()
        continuation: Any = _Continuation()
        self._partner = Partner(
            config=config,
            host=self.host,
            continuation=continuation,
            monitor=UnverifiableMonitor(VerifierConfig()),
        )
        self._engine: Any = _Engine(serving, work)

    async def respond(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        samples = range(request.num_samples)
        responses = await asyncio.gather(
            *(respond(self._engine, FakeScorer(), self._partner, request, sample) for sample in samples)
        )
        return finished_group(request, responses)

    def _answer(self, task: Task, turn: int, said: str) -> Step | EnvironmentFailedError:
        step = f"{task.seed} {turn} {said}"
        if step not in self._lost and random.Random(f"lost {step}").random() < 0.05:
            self._lost.add(step)
            return EnvironmentLostError("the process that forks environments ended: as the story says")
        return _answer(task, turn, said)


class _Engine:
    def __init__(self, serving: Callable[[], Awaitable[int]], work: Callable[[float], Awaitable[None]]) -> None:
        self._serving = serving
        self._work = work

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        version = await self._serving()
        rng = np.random.default_rng([seed, version])
        size, text = min(int(rng.integers(1, 4)), sampling.max_response_tokens), str(rng.integers(100))
        await self._work(float(rng.exponential(3.0)))
        ids = [*[5] * (size - 1), _TURN_END if rng.random() < 0.9 else _OTHER_END]
        # The last token is sampled after an update that came in the meantime.
        runs = (version, size - 1), (await self._serving(), 1)
        return Rollout(
            response_ids=np.asarray(ids, np.int32),
            behavior_logprobs=np.full(size, -0.5, np.float32),
            text=text,
            finish_reason="stop",
            token_versions=tuple(run for run in runs if run[1]),
        )


class _Continuation:
    """What is heard is one token."""

    turn_end = _TURN_END

    def heard(self, observation: str) -> Heard:
        return Heard(token_ids=np.asarray([_HEARD], np.int32), broken=0)

    def said(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))


def _answer(task: Task, turn: int, said: str) -> Step | EnvironmentFailedError:
    drawn = random.Random(f"{task.seed} {turn} {said}")
    if int(task.prompt_id[1:]) < _HELD_OUT and drawn.random() < 0.05:
        return EnvironmentFailedError("error", "step: as the story says")
    reward = float(drawn.random() < 0.5)
    return Step(observation="go on", done=drawn.random() < 0.4, reward=reward, metrics={"calls": 1})
