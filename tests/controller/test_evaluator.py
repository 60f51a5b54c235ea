"""An evaluation is of one policy version and concurrent with training, or it ends with an error that says why."""

import asyncio
from collections.abc import Callable

import pytest
from doubles.loop import FakePool, make_config, make_prompt

from actors.controller.evaluator import Evaluator
from maspo_dist.errors import ActorDiedError, DeadlineError, PoisonPromptError, PolicyAgeError
from maspo_dist.runs.rows import Event

PROMPTS = {"easy": [make_prompt(1), make_prompt(2)], "hard": [make_prompt(3)]}


def make_evaluator(
    pool: FakePool, deadline_s: float = 30.0, on_event: Callable[[Event], None] = lambda _: None, groups: int = 4
) -> Evaluator:
    config = make_config(
        evaluation={"every": 1, "samples": 2, "temperature": 1.0},
        rollout={"max_attempts": 1, "prompts_per_step": groups},
        cluster={
            "start_timeout_s": deadline_s / 8,
            "publish_timeout_s": deadline_s / 8,
            "generate_timeout_s": deadline_s / 8,
            "heartbeat_timeout_s": deadline_s / 8,
            "restart_backoff_max_s": 0,
        },
    )
    assert config.group_deadline_s == pytest.approx(deadline_s)
    return Evaluator(config, pool, PROMPTS, on_event)


async def evaluate(evaluator: Evaluator) -> dict[str, float]:
    evaluator.start(0)
    return await evaluator.result()


async def test_scores_are_per_set_and_report_the_unverifiable_share() -> None:
    pool = FakePool()
    pool.rewards = {-1: [1.0, 1.0], -2: [0.0, 1.0], -3: [0.0, 0.0]}
    pool.statuses = {-3: ["wrong", "timeout"]}
    evaluator = make_evaluator(pool)
    evaluator.start(0)
    scores = await evaluator.result()
    assert scores.pop("time/evaluate_s") >= 0
    assert {name: value for name, value in scores.items() if "tokens" not in name and "truncated" not in name} == {
        "eval/easy/avg@2": 0.75,
        "eval/easy/pass@2": 1.0,
        "eval/easy/unverifiable_share": 0.0,
        "eval/hard/avg@2": 0.0,
        "eval/hard/pass@2": 0.0,
        "eval/hard/unverifiable_share": 0.5,
    }


async def test_it_runs_concurrently_with_its_caller_and_ends_with_its_requests() -> None:
    pool = FakePool()
    hold = pool.holds[-2] = asyncio.Event()
    evaluator = make_evaluator(pool)
    evaluator.start(0)
    await asyncio.sleep(0)
    assert len(pool.requests) == 3, "every request is on its way before anyone waits"
    result = asyncio.create_task(evaluator.result())
    await asyncio.sleep(0.01)
    assert not result.done()
    assert evaluator.version == 0
    hold.set()
    assert (await result)["eval/easy/pass@2"] == 1.0
    assert evaluator.version is None


async def test_as_many_responses_are_in_flight_as_a_training_step_has_and_each_ended_problem_is_progress() -> None:
    pool = FakePool()
    pool.holds = {-1: asyncio.Event(), -2: asyncio.Event()}
    evaluator = make_evaluator(pool, groups=2)
    evaluator.start(0)
    await asyncio.sleep(0.01)
    assert [request.group_id for request in pool.requests] == [-1, -2]
    pool.holds[-1].set()
    await asyncio.sleep(0.01)
    assert [request.group_id for request in pool.requests] == [-1, -2, -3]
    assert evaluator.achieved == 2
    pool.holds[-2].set()
    await evaluator.result()
    assert evaluator.achieved == 3


async def test_every_request_has_a_negative_group_id_and_its_own_seed_in_every_evaluation() -> None:
    pool = FakePool()
    evaluator = make_evaluator(pool)
    await evaluate(evaluator)
    await evaluate(evaluator)
    first, second = pool.requests[:3], pool.requests[3:]
    assert [request.group_id for request in first] == [-1, -2, -3]
    assert len({request.seed for request in first}) == 3
    assert [request.seed for request in first] == [request.seed for request in second]


async def test_a_publish_before_the_end_is_noticed() -> None:
    pool = FakePool()
    evaluator = make_evaluator(pool)
    evaluator.start(0)
    pool.version = 1
    with pytest.raises(PolicyAgeError, match=r"version 0 on easy: group -1 holds tokens of version 1"):
        await evaluator.result()


async def test_no_progress_is_an_error_that_names_version_and_prompts() -> None:
    pool = FakePool()
    pool.holds[-3] = asyncio.Event()
    evaluator = make_evaluator(pool, deadline_s=0.02)
    evaluator.start(0)
    named = r"version 0: the end of a problem, such as hard: prompt p3: no answer within 0\.02 s"
    with pytest.raises(DeadlineError, match=named):
        await evaluator.result()
    assert evaluator.version is None


async def test_a_request_that_fails_ends_the_evaluation_with_its_error() -> None:
    pool = FakePool()
    pool.failures[-1] = ActorDiedError("rollout worker 0: the process behind it died")
    pool.holds[-2] = asyncio.Event()
    evaluator = make_evaluator(pool)
    evaluator.start(0)
    with pytest.raises(ActorDiedError, match="rollout worker 0"):
        await evaluator.result()
    assert evaluator.version is None


async def test_a_problem_that_kills_workers_counts_as_not_solved_and_ends_nothing() -> None:
    pool = FakePool()
    pool.rewards = {-1: [1.0, 1.0], -3: [1.0, 1.0]}
    pool.failures[-2] = PoisonPromptError("prompt p2 was in flight on 3 rollout workers that died; set aside")
    events: list[Event] = []
    scores = await evaluate(make_evaluator(pool, on_event=events.append))
    assert [(event.kind, "prompt p2" in event.message) for event in events] == [("prompt_set_aside", True)]
    assert (scores["eval/easy/avg@2"], scores["eval/easy/unverifiable_share"]) == (0.5, 0.5)
    assert scores["eval/hard/avg@2"] == 1.0


async def test_a_second_evaluation_or_a_result_without_an_evaluation_is_an_error() -> None:
    pool = FakePool()
    evaluator = make_evaluator(pool)
    with pytest.raises(RuntimeError, match="no evaluation was started"):
        await evaluator.result()
    evaluator.start(4)
    with pytest.raises(RuntimeError, match="of policy version 4 has not ended"):
        evaluator.start(5)
    await evaluator.cancel()
    await evaluator.cancel()
    assert evaluator.version is None
