"""The layout of a batch: complete, balanced, within budget, and free of the order of arrival."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maspo_dist.data.batching import lay_out_batch, partition
from maspo_dist.data.packing import pack_micro_batch, pack_sequences
from maspo_dist.types import (
    GroupReport,
    Prompt,
    Rollout,
    RolloutGroup,
    SampleRef,
    ScoredGroup,
    TrainingBatch,
    Verdict,
)


def scored(group_id: int, prompt_tokens: int, lengths: list[int], trainable: list[bool] | None = None) -> ScoredGroup:
    samples = len(lengths)
    verdict = Verdict(reward=0.0, status="wrong", extracted=None, seconds=0.0)
    return ScoredGroup(
        report=GroupReport(
            group_id=group_id,
            prompt_tokens=prompt_tokens,
            response_tokens=np.array(lengths, dtype=np.int32),
            truncated=np.zeros(samples, dtype=np.bool_),
            oldest_version=np.zeros(samples, dtype=np.int32),
            version_tokens=((0, sum(lengths)),),
            version_runs=np.ones(len(lengths), np.int32),
            verdicts=(verdict,) * samples,
            generated_at_s=0.0,
            scored_at_s=0.0,
        ),
        rewards=np.arange(samples, dtype=np.float32),
        advantages=np.linspace(-1, 1, samples, dtype=np.float32),
        trainable=np.array(trainable if trainable is not None else [True] * samples),
    )


def long_tailed(
    groups: int, samples: int, *, seed: int = 0, median: int = 1500, longest: int = 16384
) -> list[ScoredGroup]:
    rng = np.random.default_rng(seed)
    return [
        scored(
            group_id,
            int(rng.integers(40, 400)),
            np.clip(rng.lognormal(np.log(median), 0.9, samples), 8, longest).astype(int).tolist(),
        )
        for group_id in range(groups)
    ]


def refs(batch: TrainingBatch) -> list[SampleRef]:
    return [ref for shard in batch.shards for mini in shard for micro in mini for ref in micro]


group_lists = st.lists(
    st.tuples(
        st.integers(1, 50),
        st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(group_lists, st.integers(1, 5), st.integers(1, 5), st.integers(1, 400), st.randoms(use_true_random=False))
def test_every_trainable_response_is_trained_on_once(
    drawn: list[tuple[int, list[tuple[int, bool]]]],
    mini_batches: int,
    ranks: int,
    micro_batch_tokens: int,
    random: object,
) -> None:
    groups = [
        scored(i, prompt, [length for length, _ in members], [use for _, use in members])
        for i, (prompt, members) in enumerate(drawn)
    ]
    wanted = {(g.report.group_id, s) for g in groups for s in range(g.trainable.size) if g.trainable[s]}
    if not wanted:
        with pytest.raises(ValueError, match="no trainable response"):
            lay_out_batch(0, groups, mini_batches=mini_batches, ranks=ranks, micro_batch_tokens=micro_batch_tokens)
        return
    batch = lay_out_batch(4, groups, mini_batches=mini_batches, ranks=ranks, micro_batch_tokens=micro_batch_tokens)
    laid_out = [(ref.group_id, ref.sample) for ref in refs(batch)]
    assert sorted(laid_out) == sorted(wanted)
    assert len(batch.shards) == ranks
    size = {
        (g.report.group_id, s): g.report.prompt_tokens + int(n)
        for g in groups
        for s, n in enumerate(g.report.response_tokens)
    }
    usable = len({group_id for group_id, _ in wanted})
    assert len(batch.loss_tokens) == min(mini_batches, usable)
    for index in range(len(batch.loss_tokens)):
        minis = [shard[index] for shard in batch.shards]
        members = [ref for mini in minis for micro in mini for ref in micro]
        prompts = {g.report.group_id: g.report.prompt_tokens for g in groups}
        assert batch.loss_sequences[index] == len(members)
        assert batch.loss_tokens[index] == sum(
            size[ref.group_id, ref.sample] - prompts[ref.group_id] for ref in members
        )
        for micro in (micro for mini in minis for micro in mini):
            tokens = sum(size[ref.group_id, ref.sample] for ref in micro)
            assert tokens <= micro_batch_tokens or len(micro) == 1
    homes: dict[int, set[int]] = {}
    for shard in batch.shards:
        for index, mini in enumerate(shard):
            for ref in (ref for micro in mini for ref in micro):
                homes.setdefault(ref.group_id, set()).add(index)
    assert all(len(places) == 1 for places in homes.values())
    random.shuffle(groups)  # type: ignore[attr-defined]
    again = lay_out_batch(4, groups, mini_batches=mini_batches, ranks=ranks, micro_batch_tokens=micro_batch_tokens)
    assert again == batch


@pytest.mark.parametrize(("groups", "ranks"), [(32, 2), (64, 8), (128, 16), (512, 64)])
def test_cost_over_ranks_is_within_a_tenth_of_a_percent(groups: int, ranks: int) -> None:
    drawn = long_tailed(groups, 16)
    size = {
        (g.report.group_id, s): g.report.prompt_tokens + int(n)
        for g in drawn
        for s, n in enumerate(g.report.response_tokens)
    }
    batch = lay_out_batch(0, drawn, mini_batches=4, ranks=ranks, micro_batch_tokens=16384)
    # Attention over 24,576 tokens costs as much as the rest of their forward.
    cost = {ref: tokens + tokens**2 / 24_576 for ref, tokens in size.items()}
    per_rank = np.array(
        [
            [sum(cost[ref.group_id, ref.sample] for micro in mini for ref in micro) for mini in shard]
            for shard in batch.shards
        ]
    )
    assert (np.abs(per_rank / per_rank.mean(axis=0) - 1) <= 0.001).all()


def test_the_layout_keeps_the_reward_and_advantage_of_each_response() -> None:
    batch = lay_out_batch(0, [scored(7, 3, [4, 5, 6])], mini_batches=4, ranks=1, micro_batch_tokens=100)
    assert sorted(refs(batch), key=lambda ref: ref.sample) == [
        SampleRef(group_id=7, sample=0, reward=0.0, advantage=-1.0),
        SampleRef(group_id=7, sample=1, reward=1.0, advantage=0.0),
        SampleRef(group_id=7, sample=2, reward=2.0, advantage=1.0),
    ]


@pytest.mark.parametrize("setting", ["mini_batches", "ranks", "micro_batch_tokens"])
def test_counts_below_one_are_refused(setting: str) -> None:
    counts = {"mini_batches": 1, "ranks": 1, "micro_batch_tokens": 1} | {setting: 0}
    with pytest.raises(ValueError, match="at least 1"):
        lay_out_batch(0, [scored(0, 1, [1])], **counts)


@given(st.lists(st.integers(0, 10_000), max_size=60), st.integers(1, 9))
def test_a_partition_holds_every_index_once_heaviest_part_first(weights: list[int], parts: int) -> None:
    lists = partition(weights, parts)
    assert sorted(index for members in lists for index in members) == list(range(len(weights)))
    sums = [sum(weights[index] for index in members) for members in lists]
    assert len(lists) == parts
    assert sums == sorted(sums, reverse=True)
    if weights:
        assert sums[0] - sums[-1] <= max(weights)


def rollout_group(group_id: int, prompt: list[int], responses: list[list[int]]) -> RolloutGroup:
    return RolloutGroup(
        group_id=group_id,
        prompt=Prompt(prompt_id="p", token_ids=np.array(prompt, dtype=np.int32), reference="", source="test"),
        rollouts=tuple(
            Rollout(
                response_ids=np.array(response, dtype=np.int32),
                behavior_logprobs=-np.array(response, dtype=np.float32),
                text="",
                finish_reason="stop",
                token_versions=((0, len(response)),),
            )
            for response in responses
        ),
    )


def test_a_packed_micro_batch_by_hand() -> None:
    groups = {5: rollout_group(5, [10, 11], [[1, 2, 3], [4]]), 6: rollout_group(6, [12], [[7, 8]])}
    packed = pack_micro_batch(
        (
            SampleRef(group_id=6, sample=0, reward=0.0, advantage=0.5),
            SampleRef(group_id=5, sample=1, reward=0.0, advantage=-2.0),
        ),
        groups,
    )
    assert packed.tokens.input_ids.tolist() == [12, 7, 8, 10, 11, 4]
    assert packed.tokens.position_ids.tolist() == [0, 1, 2, 0, 1, 2]
    assert packed.tokens.targets.tolist() == [7, 8, 4]
    assert packed.tokens.predictors.tolist() == [0, 1, 4]
    assert packed.sequence_ids.tolist() == [0, 0, 1]
    assert packed.positions.tolist() == [0, 1, 0]
    assert packed.behavior_logprobs.tolist() == [-7.0, -8.0, -4.0]
    assert packed.group_ids.tolist() == [6, 5]
    assert packed.advantages.tolist() == [0.5, -2.0]


def test_nothing_packs_to_one_token_that_predicts_nothing() -> None:
    packed = pack_micro_batch((), {})
    assert packed.tokens.input_ids.shape == packed.tokens.position_ids.shape == (1,)
    assert packed.tokens.targets.size == packed.sequence_ids.size == packed.advantages.size == 0
    assert pack_sequences([], []).predictors.dtype == np.int64


def test_responses_weigh_by_the_models_own_share_of_attention() -> None:
    # Of a model of hidden size 512, attention takes half the time at 3072 tokens.
    groups = [scored(0, 1, [3071]), *(scored(group, 1, [1023]) for group in range(1, 6))]

    def loads(hidden: int) -> list[int]:
        batch = lay_out_batch(0, groups, mini_batches=1, ranks=2, micro_batch_tokens=9999, hidden=hidden)
        return sorted(sum(len(micro) for mini in shard for micro in mini) for shard in batch.shards)

    assert loads(512) == [1, 5]
    assert loads(1 << 20) == [2, 4]
