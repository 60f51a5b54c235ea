"""Batches come in the order of admission, within the age bound, with a reason for every group that does not train."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from doubles.loop import FakePool, FakePrompts, make_config

from actors.controller.group_stream import Batch, GroupStream
from actors.interfaces import Body
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ActorDiedError, BodyLostError, DeadlineError, PoisonPromptError
from maspo_dist.flow.ledger import Ledger
from maspo_dist.flow.seeds import group_seed
from maspo_dist.runs.checkpoint import StreamState
from maspo_dist.types import FinishedGroup, RolloutGroup


def make_stream(pool: FakePool, config: TrainConfig) -> GroupStream:
    prompts = FakePrompts()
    return GroupStream(
        config, pool, prompts, Ledger(), batches=100, on_progress=lambda _: None, on_event=lambda _: None
    )


def resumed(
    pool: FakePool, config: TrainConfig, state: StreamState, finished: Sequence[FinishedGroup[RolloutGroup]]
) -> GroupStream:
    return GroupStream(
        config,
        pool,
        FakePrompts(state.cursor),
        Ledger(),
        batches=100,
        on_progress=lambda _: None,
        on_event=lambda _: None,
        restored=state,
        finished=finished,
    )


def ids(batch: Batch) -> list[int]:
    return [group.group_id for group in batch.groups]


def drops(batch: Batch) -> list[str | None]:
    return [group.dropped for group in batch.groups]


async def test_strictly_on_policy_nothing_is_sampled_ahead() -> None:
    pool = FakePool()
    stream = make_stream(pool, make_config())
    assert ids(await stream.take(0)) == [0, 1, 2, 3]
    await asyncio.sleep(0)
    assert len(pool.requests) == 4
    pool.version = 1
    assert ids(await stream.take(1)) == [4, 5, 6, 7]


async def test_with_age_one_the_next_batch_generates_during_the_update() -> None:
    pool = FakePool()
    stream = make_stream(pool, make_config(algorithm={"max_policy_age": 1}))
    await stream.take(0)
    assert len(pool.requests) == 8
    stream.pump(1)
    await asyncio.sleep(0)
    assert len(pool.requests) == 12


async def test_a_slow_group_keeps_its_place_in_the_batch() -> None:
    pool = FakePool()
    pool.holds[0] = asyncio.Event()
    stream = make_stream(pool, make_config(algorithm={"max_policy_age": 1}))
    taking = asyncio.create_task(stream.take(0))
    await asyncio.sleep(0.01)
    assert not taking.done()
    pool.holds[0].set()
    assert ids(await taking) == [0, 1, 2, 3]


async def test_equal_rewards_are_dropped_with_a_reason() -> None:
    pool = FakePool()
    pool.rewards[1] = [1.0, 1.0]
    batch = await make_stream(pool, make_config()).take(0)
    assert drops(batch) == [None, "zero_variance", None, None]


async def test_equal_rewards_are_kept_where_configured() -> None:
    pool = FakePool()
    pool.rewards[1] = [1.0, 1.0]
    config = make_config(algorithm={"dynamic_sampling": {"zero_variance": "keep"}})
    assert drops(await make_stream(pool, config).take(0)) == [None] * 4


@pytest.mark.parametrize("zero_variance", ["drop", "refill"])
async def test_equal_rewards_train_where_a_kl_in_the_reward_tells_them_apart(zero_variance: str) -> None:
    pool = FakePool()
    pool.rewards[1] = [1.0, 1.0]
    sampling = {"zero_variance": zero_variance}
    for coefficient, place, dropped in (
        (0.1, "reward", None),
        (0.1, "loss", "zero_variance"),
        (0.0, "reward", "zero_variance"),
    ):
        kl = {"coefficient": coefficient, "place": place}
        config = make_config(algorithm={"dynamic_sampling": sampling, "kl": kl})
        assert drops(await make_stream(pool, config).take(0))[1] == dropped


async def test_refill_draws_other_prompts_until_the_batch_is_full() -> None:
    pool = FakePool()
    pool.rewards[1] = [1.0, 1.0]
    pool.rewards[4] = [0.0, 0.0]
    config = make_config(algorithm={"dynamic_sampling": {"zero_variance": "refill"}})
    batch = await make_stream(pool, config).take(0)
    assert ids(batch) == [0, 1, 2, 3, 4, 5]
    assert drops(batch).count(None) == 4


async def test_refill_stops_at_its_cap() -> None:
    pool = FakePool()
    for group_id in range(100):
        pool.rewards[group_id] = [1.0, 1.0]
    config = make_config(algorithm={"dynamic_sampling": {"zero_variance": "refill", "max_refill_ratio": 0.5}})
    batch = await make_stream(pool, config).take(0)
    assert drops(batch) == ["zero_variance"] * 6


async def test_unverifiable_responses_do_not_train_and_do_not_move_the_mean() -> None:
    pool = FakePool()
    pool.rewards[0] = [1.0, 0.0, 0.0]
    pool.statuses[0] = ["", "", "timeout"]
    pool.rewards[1] = [0.0, 0.0, 0.0]
    pool.statuses[1] = ["error", "timeout", "error"]
    config = make_config(rollout={"group_size": 3, "prompts_per_step": 2})
    first, second = (await make_stream(pool, config).take(0)).groups
    assert first.scored.trainable.tolist() == [True, True, False]
    assert first.scored.advantages[0] == -first.scored.advantages[1] > 0
    assert first.scored.advantages[2] == 0
    assert second.dropped == "unverifiable"


async def test_a_group_older_than_allowed_is_dropped_with_its_reason() -> None:
    stream = make_stream(FakePool(), make_config())
    assert drops(await stream.take(2)) == ["too_old"] * 4


async def test_in_order_of_completion_a_batch_fills_early_and_the_straggler_trains_within_the_age_bound() -> None:
    pool = FakePool()
    pool.holds[0] = asyncio.Event()
    config = make_config(algorithm={"max_policy_age": 1}, rollout={"batch_order": "completion"})
    stream = make_stream(pool, config)
    assert ids(await stream.take(0)) == [1, 2, 3, 4]
    pool.version = 1
    taking = asyncio.create_task(stream.take(1))
    await asyncio.sleep(0.01)
    assert not taking.done()
    pool.holds[0].set()
    assert ids(await taking) == [0, 5, 6, 7]


async def test_over_sampling_bounds_how_far_generation_runs_ahead() -> None:
    pool = FakePool()
    config = make_config(algorithm={"max_policy_age": 1}, rollout={"batch_order": "completion", "over_sampling": 1.25})
    stream = make_stream(pool, config)
    stream.pump(0)
    await asyncio.sleep(0)
    assert len(pool.requests) == 5


async def test_a_poison_prompt_is_lost_with_its_reason_and_the_batch_goes_on() -> None:
    pool = FakePool()
    pool.failures[2] = PoisonPromptError("prompt p2 was in flight on 3 rollout workers that died")
    batch = await make_stream(pool, make_config()).take(0)
    assert ids(batch) == [0, 1, 3]
    assert batch.lost == {2: "poison"}


@pytest.mark.parametrize(("action", "tries"), [("drop", 1), ("requeue", 3)])
async def test_a_straggler_is_sampled_again_or_dropped_as_configured(action: str, tries: int) -> None:
    pool = FakePool()
    pool.holds[1] = asyncio.Event()
    config = make_config(rollout={"straggler": {"deadline_s": 0.02, "action": action}})
    batch = await make_stream(pool, config).take(0)
    assert batch.lost == {1: "straggler"}
    assert sum(request.group_id == 1 for request in pool.requests) == tries


async def test_requests_carry_the_deadline_at_which_stragglers_are_cut() -> None:
    pool = FakePool()
    await make_stream(pool, make_config(rollout={"straggler": {"deadline_s": 7.0}})).take(0)
    assert {request.cut_after_s for request in pool.requests} == {7.0}


async def test_a_restored_stream_keeps_finished_groups_and_sends_the_others_again() -> None:
    pool = FakePool()
    pool.holds[5] = asyncio.Event()
    config = make_config(algorithm={"max_policy_age": 1})
    first = make_stream(pool, config)
    await first.take(0)
    state, finished = await first.snapshot()
    await first.stop()
    assert [group.body.group_id for group in finished] == [4, 6, 7]
    del pool.holds[5]
    pool.requests.clear()
    second = resumed(pool, config, state, finished)
    second.resend(1)
    assert ids(await second.take(1)) == [4, 5, 6, 7]
    assert [request.group_id for request in pool.requests][:1] == [5]
    assert [request.prompt.prompt_id for request in pool.requests] == ["p5", "p8", "p9", "p10", "p11"]


async def test_a_finished_group_whose_body_is_lost_with_its_node_is_sampled_again() -> None:
    pool = FakePool()
    stream = make_stream(pool, make_config(algorithm={"max_policy_age": 1}))
    await stream.take(0)
    await asyncio.sleep(0)
    pool.lost_bodies = {5}
    _, finished = await stream.snapshot()
    assert [group.body.group_id for group in finished] == [4, 6, 7]
    pool.lost_bodies = set()
    assert ids(await stream.take(1)) == [4, 5, 6, 7]
    assert [request.group_id for request in pool.requests].count(5) == 2


async def test_a_batch_that_could_not_be_trained_is_taken_again_and_only_lost_groups_are_sampled_again() -> None:
    pool = FakePool()
    stream = make_stream(pool, make_config(algorithm={"max_policy_age": 1}))
    await stream.take(0)
    await asyncio.sleep(0)
    pool.lost_bodies = {1, 2}
    await stream.take_back(1, BodyLostError("groups 1 and 2 are gone"))
    pool.lost_bodies = set()
    assert ids(await stream.take(0)) == [0, 1, 2, 3]
    assert [request.group_id for request in pool.requests] == [0, 1, 2, 3, 4, 5, 6, 7, 1, 2]
    assert ids(await stream.take(1)) == [4, 5, 6, 7]


async def test_a_batch_that_is_taken_again_brings_copies_of_the_bodies_that_learners_could_not_read() -> None:
    class StoringPool(FakePool):
        def store(self, group: RolloutGroup) -> Body:
            return replace(group)

    pool = StoringPool()
    stream = make_stream(pool, make_config())
    first = await stream.take(0)
    await stream.take_back(1, BodyLostError("group 2 does not arrive"))
    second = await stream.take(0)
    assert ids(second) == ids(first)
    assert not {id(group.body) for group in first.groups} & {id(group.body) for group in second.groups}
    assert len(pool.requests) == 4


async def test_a_lost_group_that_would_not_train_keeps_its_reason() -> None:
    pool = FakePool()
    pool.rewards[5] = [1.0, 1.0]
    config = make_config(algorithm={"max_policy_age": 1})
    first = make_stream(pool, config)
    await first.take(0)
    await asyncio.sleep(0)
    pool.lost_bodies = {5}
    state, finished = await first.snapshot()
    await first.stop()
    pool.requests.clear()
    second = resumed(pool, config, state, finished)
    second.resend(1)
    batch = await second.take(1)
    assert batch.lost == {5: "zero_variance"}
    assert 5 not in [request.group_id for request in pool.requests]


async def test_a_group_that_was_set_aside_is_not_sampled_again_by_a_resumed_run() -> None:
    pool = FakePool()
    pool.failures[5] = PoisonPromptError("prompt p5 was in flight on 3 rollout workers that died; set aside")
    config = make_config(algorithm={"max_policy_age": 1})
    first = make_stream(pool, config)
    await first.take(0)
    state, finished = await first.snapshot()
    await first.stop()
    pool.requests.clear()
    second = resumed(pool, config, state, finished)
    second.resend(1)
    batch = await second.take(1)
    assert ids(batch) == [4, 6, 7]
    assert batch.lost == {5: "poison"}
    assert 5 not in [request.group_id for request in pool.requests]


async def test_a_group_beyond_the_cap_of_refills_is_not_refilled_by_a_resumed_run() -> None:
    pool = FakePool()
    pool.rewards = {group: [1.0, 1.0] for group in range(8)}
    sampling = {"zero_variance": "refill", "max_refill_ratio": 0.25}
    config = make_config(algorithm={"max_policy_age": 1, "dynamic_sampling": sampling})
    first = make_stream(pool, config)
    await first.take(0)
    await asyncio.sleep(0)
    state, finished = await first.snapshot()
    await first.stop()
    refilled = [group.group_id for group in state.pending if group.refilled]
    second = resumed(pool, config, state, finished)
    state, _ = await second.snapshot()
    assert [group.group_id for group in state.pending if group.refilled] == refilled


async def test_the_error_of_a_group_ends_the_wait() -> None:
    pool = FakePool()
    pool.holds[0] = asyncio.Event()
    pool.failures[2] = ActorDiedError("worker 1 is gone")
    stream = make_stream(pool, make_config())
    with pytest.raises(ActorDiedError, match="worker 1"):
        await stream.take(0)
    await stream.stop()
    assert stream.groups.in_flight == 0


async def test_a_wait_without_progress_names_its_groups() -> None:
    pool = FakePool()
    pool.holds[3] = asyncio.Event()
    stream = make_stream(
        pool,
        make_config(
            cluster={
                "generate_timeout_s": 0.01,
                "start_timeout_s": 0.01,
                "publish_timeout_s": 0.01,
                "heartbeat_timeout_s": 0.01,
                "restart_backoff_max_s": 0.0,
            },
            rollout={"max_attempts": 1},
        ),
    )
    with pytest.raises(DeadlineError, match=r"waits for group 3 \(prompt p3\)"):
        await stream.take(0)
    await stream.stop()


def test_every_group_has_its_own_seed() -> None:
    seeds = [group_seed(0, group_id) for group_id in range(1000)]
    assert len(set(seeds)) == 1000
    assert seeds == [group_seed(0, group_id) for group_id in range(1000)]
    assert seeds[:10] != [group_seed(1, group_id) for group_id in range(10)]
    assert all(0 <= seed < 2**31 for seed in seeds)
