"""Responses that converse with an environment: turns, seeds, versions, limits, rewards and failures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from doubles.engines import FakeEngine
from doubles.environments import ScriptedHost
from doubles.loop import FakeScorer, make_config, make_prompt

from actors.bench.doubles import make_update
from actors.rollout.actor import RolloutActor
from actors.rollout.conversation import Partner, Response, respond
from maspo_dist.algorithm import score_group
from maspo_dist.config import EnvironmentConfig, PromptConfig, VerifierConfig
from maspo_dist.data.chat import ChatTemplate
from maspo_dist.data.conversation import Continuation
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import EnvironmentFailedError, EnvironmentLostError, VerifierError
from maspo_dist.flow.seeds import turn_seed
from maspo_dist.reward.unverifiable import UnverifiableMonitor
from maspo_dist.types import IntArray, Rollout, RolloutRequest, Sampling

TOKENIZER = make_tokenizer()
END = TOKENIZER.eos_token_id
PAD = TOKENIZER.pad_token_id


@dataclass
class Asked:
    token_ids: list[int]
    tokens: int
    seed: int
    cut_after_s: float | None


class TalkingEngine(FakeEngine):
    """Samples one of `lines` per turn: its text and its last token, or None for a turn that is cut off. Turn t has
    policy version t.
    """

    def __init__(self, lines: list[tuple[str, int | None]], wait_s: float = 0.0) -> None:
        super().__init__()
        self.lines = lines
        self.wait_s = wait_s
        self.asked: list[Asked] = []

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        turn = min(token_ids.tolist().count(END), len(self.lines) - 1)
        self.asked.append(Asked(token_ids.tolist(), sampling.max_response_tokens, seed, cut_after_s))
        await asyncio.sleep(self.wait_s)
        text, last = self.lines[turn]
        ids = [*TOKENIZER.encode(text, add_special_tokens=False), *([] if last is None else [last])]
        is_cut = last is None or len(ids) > sampling.max_response_tokens
        ids = ids[: sampling.max_response_tokens]
        return Rollout(
            response_ids=np.asarray(ids, np.int32),
            behavior_logprobs=np.full(len(ids), -0.5 - turn, np.float32),
            text=text,
            finish_reason="length" if is_cut else "stop",
            token_versions=((turn, len(ids)),),
        )


CALLS: list[tuple[str, int | None]] = [("calc(1+2)", END), ("calc(3+4)", END), ("\\boxed{7}", END)]


def sums(task: Task, turn: int, said: str) -> Step:
    """Answers what is in the brackets; ends when there are none."""
    if not said.startswith("calc("):
        return Step(done=True, reward=1.0)
    left, right = said[5:-1].split("+")
    return Step(observation=str(int(left) + int(right)), metrics={"calls": 1})


def partner(host: ScriptedHost, window: int = 256, **config: Any) -> Partner:
    settings = EnvironmentConfig.model_validate({"kind": "python:games:Game"} | config)
    return Partner(
        config=settings,
        host=host,
        continuation=Continuation(ChatTemplate(TOKENIZER, PromptConfig()), "tool", settings.max_observation_tokens),
        monitor=UnverifiableMonitor(VerifierConfig(unverifiable_window=window)),
    )


def request(limit: int = 100, cut_after_s: float | None = None) -> RolloutRequest:
    prompt = replace(make_prompt(1), token_ids=np.asarray(TOKENIZER.encode("<|user|>1+2+4<|assistant|>"), np.int32))
    sampling = Sampling(temperature=1.0, max_response_tokens=limit)
    return RolloutRequest(group_id=7, prompt=prompt, num_samples=2, sampling=sampling, seed=40, cut_after_s=cut_after_s)


async def play(
    engine: TalkingEngine, host: ScriptedHost, asked: RolloutRequest | None = None, **config: Any
) -> Response:
    response = await respond(engine, NotingScorer(), partner(host, **config), asked or request(), 1)
    assert all(session.is_closed for session in host.sessions)
    return response


async def test_three_turns_become_one_response_of_which_only_the_turns_were_sampled() -> None:
    engine, host = TalkingEngine(CALLS), ScriptedHost(sums)
    response = await play(engine, host)
    rollout, verdict, conversation = response.rollout, response.verdict, response.conversation
    stream = "calc(1+2)<|end|><|user|>3<|assistant|>calc(3+4)<|end|><|user|>7<|assistant|>\\boxed{7}<|end|>"
    assert TOKENIZER.decode(rollout.response_ids) == stream
    assert (
        TOKENIZER.decode(rollout.response_ids[rollout.sampled]) == "calc(1+2)<|end|>calc(3+4)<|end|>\\boxed{7}<|end|>"
    )
    assert rollout.behavior_logprobs.tolist() == [-0.5] * 10 + [-1.5] * 10 + [-2.5] * 4
    assert rollout.token_versions == ((0, 10), (1, 10), (2, 4))
    assert (rollout.finish_reason, rollout.text, rollout.turn_rewards) == ("stop", "\\boxed{7}", (0.0, 0.0, 1.0))
    assert (verdict.reward, verdict.status) == (1.0, "correct")
    assert conversation is not None
    assert (conversation.turns, conversation.ended, conversation.metrics) == (3, "done", (("calls", 2.0),))
    assert len(conversation.step_seconds) == 3
    assert host.sessions[0].said == ["calc(1+2)", "calc(3+4)", "\\boxed{7}"]
    assert host.sessions[0].task == Task(
        prompt_id="p1", reference=request().prompt.reference, source=request().prompt.source, seed=40
    )


async def test_each_turn_continues_the_exact_tokens_with_a_seed_of_its_own() -> None:
    engine = TalkingEngine(CALLS)
    rollout = (await play(engine, ScriptedHost(sums))).rollout
    prompt = request().prompt.token_ids.tolist()
    starts = [0, *(end for _, end in rollout.heard)]
    assert [asked.token_ids for asked in engine.asked] == [
        prompt + rollout.response_ids[:start].tolist() for start in starts
    ]
    assert [asked.seed for asked in engine.asked] == [41, turn_seed(41, 1), turn_seed(41, 2)]
    assert [asked.tokens for asked in engine.asked] == [100, 100 - 13, 100 - 26]


@pytest.mark.parametrize(
    ("lines", "limit", "config", "turns", "ended", "finish", "said"),
    [
        ([("calc(1+2)", END), ("7", PAD)], 100, {}, 2, "other_end", "stop", 2),
        ([("calc(1+2)", None)], 100, {}, 1, "tokens", "length", 0),
        ([("calc(1+2)", END)], 100, {"max_turn_tokens": 4}, 1, "tokens", "length", 0),
        ([("calc(1+2)", END)], 100, {"max_turns": 2}, 2, "turns", "stop", 2),
        # 10 tokens of the turn and 3 of the observation: no room is left for a token.
        ([("calc(1+2)", END)], 13, {}, 1, "tokens", "length", 1),
        ([("calc(1+2)", END)], 14, {}, 2, "tokens", "length", 1),
    ],
)
async def test_a_conversation_ends(
    lines: list[tuple[str, int | None]],
    limit: int,
    config: dict[str, Any],
    turns: int,
    ended: str,
    finish: Literal["stop", "length"],
    said: int,
) -> None:
    host = ScriptedHost(lambda task, turn, text: Step(observation="3"))
    response = await play(TalkingEngine(lines), host, request(limit), **config)
    assert response.conversation is not None
    assert (response.conversation.turns, response.conversation.ended) == (turns, ended)
    assert response.rollout.finish_reason == finish
    assert response.rollout.response_ids.size <= limit
    assert len(response.rollout.heard) == turns - 1
    assert len(host.sessions[0].said) == said


async def test_a_conversation_past_its_deadline_ends_after_its_last_whole_turn() -> None:
    engine = TalkingEngine(CALLS)
    host = ScriptedHost(sums, wait_s=0.03)
    response = await play(engine, host, request(cut_after_s=0.05))
    assert response.conversation is not None
    assert (response.conversation.ended, response.conversation.turns) == ("cut", 1)
    assert response.rollout.finish_reason == "length"
    assert engine.asked[0].cut_after_s == 1.0


async def test_a_turn_gets_the_time_that_is_left() -> None:
    engine = TalkingEngine(CALLS)
    await play(engine, ScriptedHost(sums, wait_s=0.02), request(cut_after_s=60.0))
    left = [asked.cut_after_s for asked in engine.asked]
    assert left == sorted(left, reverse=True)
    assert all(59 < seconds <= 60 - 0.02 for seconds in left if seconds is not None)


@pytest.mark.parametrize(
    ("rewards", "reward", "status"),
    [((0.25, 0.5, None), 0.75, "correct"), ((0.25, None, None), 0.25, "wrong"), ((None, None, None), 0.0, "wrong")],
)
async def test_the_reward_is_the_sum_of_the_steps_or_else_the_verifiers(
    rewards: tuple[float | None, ...], reward: float, status: str
) -> None:
    host = ScriptedHost(lambda task, turn, said: Step(observation="3", reward=rewards[turn], done=turn == 2))
    scorer = NotingScorer()
    response = await respond(TalkingEngine(CALLS), scorer, partner(host), request(), 1)
    assert (response.verdict.reward, response.verdict.status) == (reward, status)
    assert scorer.scored == ([] if any(rewards) else ["\\boxed{7}"])
    assert response.rollout.turn_rewards == (tuple(r or 0.0 for r in rewards) if any(rewards) else ())


class NotingScorer(FakeScorer):
    def __init__(self) -> None:
        self.scored: list[str] = []

    async def score(self, response: str, reference: str, source: str) -> Any:
        self.scored.append(response)
        return replace(await super().score("1", reference, source), reward=0.0, status="wrong")


@pytest.mark.parametrize("status", ["timeout", "error"])
@pytest.mark.parametrize("failing", ["reset", "step"])
async def test_a_failure_of_the_environment_is_masked(status: Literal["timeout", "error"], failing: str) -> None:
    failure = EnvironmentFailedError(status, "ZeroDivisionError: division by zero")
    if failing == "reset":
        host = ScriptedHost(sums, reset=lambda task: failure)
    else:
        host = ScriptedHost(lambda task, turn, said: failure if turn else sums(task, turn, said))
    response = await play(TalkingEngine(CALLS), host)
    assert response.conversation is not None
    assert (response.verdict.status, response.conversation.ended) == (status, "failed")
    assert response.verdict.reason == "environment: ZeroDivisionError: division by zero"
    assert response.rollout.behavior_logprobs.size == (1 if failing == "reset" else 20)


@pytest.mark.parametrize("losing", ["reset", "step"])
@pytest.mark.parametrize("losses", [1, 2, 3])
async def test_a_conversation_whose_environment_is_lost_starts_again_twice(losses: int, losing: str) -> None:
    left = iter([EnvironmentLostError("killed by signal 9")] * losses)
    if losing == "reset":
        host = ScriptedHost(sums, reset=lambda task: next(left, None))
    else:
        host = ScriptedHost(lambda task, turn, said: (turn and next(left, None)) or sums(task, turn, said))
    engine = TalkingEngine(CALLS)
    response = await play(engine, host, max_turns=3)
    conversation, undisturbed = response.conversation, await play(TalkingEngine(CALLS), ScriptedHost(sums))
    assert conversation is not None
    assert undisturbed.conversation is not None
    assert conversation.lost == ("killed by signal 9",) * min(losses, 2)
    if losses == 3:
        assert (conversation.ended, response.verdict.status) == ("failed", "error")
        return
    assert np.array_equal(response.rollout.response_ids, undisturbed.rollout.response_ids)
    assert response.verdict.status == undisturbed.verdict.status == "correct"
    assert (conversation.turns, conversation.metrics) == (3, undisturbed.conversation.metrics)
    # Each start has the seeds of the first.
    assert {asked.seed for asked in engine.asked} == {turn_seed(41, turn) for turn in range(3)}


async def test_an_environment_that_fails_too_often_ends_the_run() -> None:
    failure = EnvironmentFailedError("timeout", "step took more than 30 s")
    playing = partner(ScriptedHost(lambda task, turn, said: failure), window=4)
    for _ in range(3):
        await respond(TalkingEngine(CALLS), FakeScorer(), playing, request(), 0)
    with pytest.raises(VerifierError, match=r"^the environment left 100% of its last 4 samples unverifiable.* 30 s$"):
        await respond(TalkingEngine(CALLS), FakeScorer(), playing, request(), 0)


async def test_environments_that_are_lost_again_and_again_end_the_run() -> None:
    playing = partner(ScriptedHost(lambda task, turn, said: EnvironmentLostError("killed by signal 9")), window=4)
    for _ in range(3):
        await respond(TalkingEngine(CALLS), FakeScorer(), playing, request(), 0)
    with pytest.raises(VerifierError, match=r"unverifiable, .*killed by signal 9$"):
        await respond(TalkingEngine(CALLS), FakeScorer(), playing, request(), 0)


async def test_a_conversation_that_starts_again_gets_no_more_time() -> None:
    lost = iter([EnvironmentLostError("killed by signal 9")])
    host = ScriptedHost(lambda task, turn, said: next(lost, None) or sums(task, turn, said))
    engine = TalkingEngine(CALLS, wait_s=0.1)
    await play(engine, host, request(cut_after_s=60.0))
    left = [asked.cut_after_s for asked in engine.asked if asked.cut_after_s is not None]
    assert len(left) == 4
    assert left == sorted(left, reverse=True)


async def test_a_cancelled_conversation_closes_its_environment() -> None:
    host = ScriptedHost(sums)
    playing = asyncio.create_task(play(TalkingEngine(CALLS, wait_s=60.0), host))
    await asyncio.sleep(0.01)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert host.sessions[0].is_closed


class TalkingWorker(RolloutActor):
    """A rollout actor in this process, whose responses converse."""

    def __init__(self, engine: TalkingEngine, host: ScriptedHost) -> None:
        super().__init__(make_config(), 0, "cpu", FakeScorer(), Path("logs"))
        self._fake, self._host = engine, host

    async def _make_engine(self) -> TalkingEngine:
        return self._fake

    async def _make_partner(self) -> Partner:
        return partner(self._host)


async def test_the_report_of_a_group_separates_sampled_from_heard_tokens() -> None:
    engine = TalkingEngine(CALLS)
    worker = TalkingWorker(engine, ScriptedHost(sums))
    await worker.start_engine()
    engine.weight = 0.5
    await worker.publish(make_update(3, 0.5))
    report, group = await worker.generate(replace(request(), num_samples=1))
    assert report.response_tokens.tolist() == [24]
    assert report.heard_tokens.tolist() == [6]
    assert report.lengths.tolist() == [30] == [rollout.response_ids.size for rollout in group.rollouts]
    assert report.version_tokens == ((0, 10), (1, 10), (2, 4))
    assert report.oldest_version.tolist() == [0]
    assert report.version_runs.tolist() == [3]
    assert [conversation.turns for conversation in report.conversations] == [3]
    assert score_group(report, make_config().algorithm, 100).rewards.tolist() == [1.0]
