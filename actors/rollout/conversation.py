"""A response from its prompt to its verdict: one turn, or a conversation with an environment.

    generate ──► step ──► the observation in tokens ──► generate ──► … ──► Rollout, Verdict

The rollout worker and the evaluation worker both respond by this module.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from actors.interfaces import RolloutEngine
from maspo_dist.config import EnvironmentConfig, EvaluationConfig, TrainConfig
from maspo_dist.data.conversation import Continuation
from maspo_dist.data.trajectory import Trajectory
from maspo_dist.environments.protocol import EnvironmentHost, Session, Step, Task
from maspo_dist.errors import EnvironmentFailedError, EnvironmentLostError
from maspo_dist.flow.seeds import turn_seed
from maspo_dist.reward.sample import CORRECT_FROM
from maspo_dist.reward.unverifiable import UnverifiableMonitor
from maspo_dist.types import (
    Conversation,
    ConversationEnd,
    GroupReport,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Verdict,
)

#: A turn gets at least this long before it is cut: an engine must sample a turn again that is cut before its first
#: token.
_LEAST_TURN_S = 1.0
#: Times that a conversation starts again. The limit stops an environment that kills the fork server in every attempt.
_MOST_RESTARTS = 2


class Scorer(Protocol):
    """Scores one response."""

    async def score(self, response: str, reference: str, source: str) -> Verdict: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Partner:
    """What responses converse with, and how."""

    config: EnvironmentConfig
    host: EnvironmentHost
    continuation: Continuation
    monitor: UnverifiableMonitor


async def partner_of(config: TrainConfig | EvaluationConfig) -> Partner | None:
    """The partner that `config.environment` asks for; None without an environment."""
    if config.environment is None:
        return None
    # Its module imports transformers, without which other workers start faster.
    module = importlib.import_module("actors.rollout.partner")
    partner: Partner = await module.open_partner(config)
    return partner


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response and its verdict. `ended_s` is the wall clock (time.time) of its end; without a partner there is no
    `conversation`.
    """

    rollout: Rollout
    verdict: Verdict
    ended_s: float
    conversation: Conversation | None = None


async def respond(
    engine: RolloutEngine, scorer: Scorer, partner: Partner | None, request: RolloutRequest, sample: int
) -> Response:
    """Response number `sample` to `request`.

    With a partner, the reward of the response is the sum of the rewards of the steps; if no step gave a reward,
    `scorer` scores the last turn. If the environment fails, the verdict is a timeout or an error. If the environment is
    lost, for example because the process that forks all environments died, the conversation starts again from the
    prompt, with the same seeds. Raises VerifierError when the environment fails too often, and what engine, scorer and
    host raise.
    """
    if partner is not None:
        started_s = asyncio.get_running_loop().time()
        return await _Dialogue(engine, scorer, partner, request, request.seed + sample, started_s).play()
    prompt = request.prompt
    rollout = await engine.generate(prompt.token_ids, request.sampling, request.seed + sample, request.cut_after_s)
    ended_s = time.time()
    verdict = await scorer.score(prompt.response_start + rollout.text, prompt.reference, prompt.source)
    return Response(rollout=rollout, verdict=verdict, ended_s=ended_s)


def finished_group(request: RolloutRequest, responses: Sequence[Response]) -> tuple[GroupReport, RolloutGroup]:
    """All responses to `request`, and what the controller needs to know of them."""
    rollouts = tuple(response.rollout for response in responses)
    versions: Counter[int] = Counter()
    for rollout in rollouts:
        for version, tokens in rollout.token_versions:
            versions[version] += tokens
    conversations = tuple(response.conversation for response in responses if response.conversation)
    report = GroupReport(
        group_id=request.group_id,
        prompt_tokens=request.prompt.token_ids.size,
        response_tokens=np.asarray([rollout.behavior_logprobs.size for rollout in rollouts], np.int32),
        truncated=np.asarray([rollout.finish_reason == "length" for rollout in rollouts], np.bool_),
        oldest_version=np.asarray([min(rollout.token_versions)[0] for rollout in rollouts], np.int32),
        version_tokens=tuple(sorted(versions.items())),
        version_runs=np.asarray([len(rollout.token_versions) for rollout in rollouts], np.int32),
        verdicts=tuple(response.verdict for response in responses),
        generated_at_s=max(response.ended_s for response in responses),
        scored_at_s=time.time(),
        heard_tokens=np.asarray([rollout.heard_tokens for rollout in rollouts if conversations], np.int32),
        conversations=conversations,
    )
    return report, RolloutGroup(group_id=request.group_id, prompt=request.prompt, rollouts=rollouts)


@dataclass(slots=True, eq=False)
class _Dialogue:
    """One conversation; `seed` is that of its first turn, `lost` as in `Conversation`.

    started_s   of the event loop's clock; a conversation that starts again gets no more time
    """

    engine: RolloutEngine
    scorer: Scorer
    partner: Partner
    request: RolloutRequest
    seed: int
    started_s: float
    lost: tuple[str, ...] = ()
    trajectory: Trajectory = field(init=False)
    step_seconds: list[float] = field(init=False, default_factory=list)
    metrics: dict[str, float] = field(init=False, default_factory=dict)
    broken_tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.trajectory = Trajectory(self.request.prompt.token_ids, self.request.sampling.max_response_tokens)

    async def play(self) -> Response:
        ended: ConversationEnd = "failed"
        failure: EnvironmentFailedError | None = None
        try:
            ended = await self._converse()
        except EnvironmentFailedError as error:
            if isinstance(error, EnvironmentLostError) and len(self.lost) < _MOST_RESTARTS:
                return await replace(self, lost=(*self.lost, error.reason)).play()
            failure = error
            if not self.trajectory.turns:
                # A response has at least one token; this one is not trained on.
                await self._say(most_tokens=1)
        rollout = self.trajectory.rollout("length" if ended in ("tokens", "cut") else "stop")
        ended_s = time.time()
        verdict = await self._verdict(rollout, failure)
        conversation = Conversation(
            turns=self.trajectory.turns,
            ended=ended,
            step_seconds=tuple(self.step_seconds),
            metrics=tuple(sorted(self.metrics.items())),
            broken_tokens=self.broken_tokens,
            lost=self.lost,
        )
        return Response(rollout=rollout, verdict=verdict, ended_s=ended_s, conversation=conversation)

    async def _converse(self) -> ConversationEnd:
        prompt = self.request.prompt
        task = Task(
            prompt_id=prompt.prompt_id, reference=prompt.reference, source=prompt.source, seed=self.request.seed
        )
        session = await self.partner.host.open(task)
        try:
            return await self._turns(session)
        finally:
            await session.close()

    async def _turns(self, session: Session) -> ConversationEnd:
        continuation, trajectory = self.partner.continuation, self.trajectory
        while True:
            turn = await self._say(self.partner.config.max_turn_tokens)
            if turn.finish_reason == "length":
                return "cut" if self._is_late() else "tokens"
            # Its last token ends the turn, or the response.
            step = await self._step(session, continuation.said(turn.response_ids[:-1].tolist()))
            if step.done:
                return "done"
            if turn.response_ids[-1] != continuation.turn_end:
                return "other_end"
            if trajectory.turns == self.partner.config.max_turns:
                return "turns"
            heard = continuation.heard(step.observation)
            self.broken_tokens += heard.broken
            if heard.token_ids.size >= trajectory.room:
                return "tokens"
            if self._is_late():
                return "cut"
            trajectory.hear(heard.token_ids)

    async def _say(self, most_tokens: int | None) -> Rollout:
        trajectory, request = self.trajectory, self.request
        room = trajectory.room if most_tokens is None else min(trajectory.room, most_tokens)
        seed, cut_after_s = turn_seed(self.seed, trajectory.turns), request.cut_after_s
        if cut_after_s is not None:
            cut_after_s = max(_LEAST_TURN_S, cut_after_s - self._elapsed_s())
        sampling = replace(request.sampling, max_response_tokens=room)
        turn = await self.engine.generate(trajectory.token_ids, sampling, seed, cut_after_s)
        trajectory.say(turn)
        return turn

    async def _step(self, session: Session, said: str) -> Step:
        started_s = time.perf_counter()
        step = await session.step(said)
        self.step_seconds.append(time.perf_counter() - started_s)
        self.trajectory.give(step.reward)
        for name, number in step.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + number
        return step

    async def _verdict(self, rollout: Rollout, failure: EnvironmentFailedError | None) -> Verdict:
        reason = "" if failure is None else f"environment: {failure.reason}"
        self.partner.monitor.record("the environment", failure is None, reason)
        self.partner.monitor.check()
        seconds, reward = sum(self.step_seconds), self.trajectory.reward
        if failure is not None:
            return Verdict(reward=0.0, status=failure.status, extracted=None, seconds=seconds, reason=reason)
        if reward is None:
            prompt = self.request.prompt
            # Every turn starts as the first: a template that leaves a reasoning block open does so each time.
            return await self.scorer.score(prompt.response_start + rollout.text, prompt.reference, prompt.source)
        is_correct = reward >= CORRECT_FROM
        return Verdict(reward=reward, status="correct" if is_correct else "wrong", extracted=None, seconds=seconds)

    def _elapsed_s(self) -> float:
        return asyncio.get_running_loop().time() - self.started_s

    def _is_late(self) -> bool:
        cut_after_s = self.request.cut_after_s
        return cut_after_s is not None and self._elapsed_s() >= cut_after_s
