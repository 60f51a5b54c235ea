"""Tokens that were heard are context: they are in no loss, ratio or count of sampled tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from actors.bench.doubles import make_report, make_scored, make_verdict
from maspo_dist.algorithm import SampledTokens, micro_batch_objective, policy_loss, score_group, token_logprobs
from maspo_dist.config import AlgorithmConfig
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.data.packing import PackedMicroBatch, pack_micro_batch
from maspo_dist.types import Prompt, Rollout, RolloutGroup, SampleRef

VOCABULARY, HIDDEN = 40, 8
#: Two turns: 1 2 3 was sampled, 30 31 heard, 4 5 sampled.
IDS, HEARD = [1, 2, 3, 30, 31, 4, 5], ((3, 5),)


def rollout(ids: list[int], heard: tuple[tuple[int, int], ...] = (), **changed: Any) -> Rollout:
    sampled = len(ids) - sum(end - start for start, end in heard)
    fields: dict[str, Any] = {
        "response_ids": np.asarray(ids, np.int32),
        "behavior_logprobs": np.linspace(-3, -2, sampled, dtype=np.float32),
        "text": "",
        "finish_reason": "stop",
        "token_versions": ((0, sampled),),
        "heard": heard,
    }
    return Rollout(**fields | changed)


def packed(*rollouts: Rollout) -> PackedMicroBatch:
    prompt = Prompt(prompt_id="p", token_ids=np.asarray([10, 11], np.int32), reference="", source="test")
    group = RolloutGroup(group_id=5, prompt=prompt, rollouts=rollouts)
    refs = [SampleRef(group_id=5, sample=i, reward=0.0, advantage=1.0 - 2.5 * i) for i in range(len(rollouts))]
    return pack_micro_batch(tuple(refs), {5: group})


def test_a_rollout_says_which_tokens_were_sampled() -> None:
    assert rollout(IDS, HEARD).sampled.tolist() == [0, 1, 2, 5, 6]
    assert rollout(IDS).sampled.tolist() == list(range(7))
    assert rollout(IDS, ((1, 2), (3, 6))).sampled.tolist() == [0, 2, 6]


@pytest.mark.parametrize("heard", [((0, 2),), ((3, 7),), ((3, 3),), ((4, 3),), ((1, 3), (3, 5)), ((3, 5), (1, 2))])
def test_runs_of_heard_tokens_lie_apart_and_between_sampled_tokens(heard: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="heard must be runs within response_ids, in order and apart"):
        rollout(IDS, heard)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("behavior_logprobs", np.zeros(7, np.float32)),
        ("token_versions", ((0, 7),)),
        ("turn_rewards", (1.0,)),
        ("turn_rewards", (0.0, 0.0, 1.0)),
    ],
)
def test_logprobs_and_versions_cover_the_sampled_tokens_only(field: str, value: object) -> None:
    rollout(IDS, HEARD, turn_rewards=(0.0, 1.0))
    with pytest.raises(ValueError, match=field):
        rollout(IDS, HEARD, **{field: value})


def test_heard_tokens_are_packed_as_context_and_not_predicted() -> None:
    batch = packed(rollout(IDS, HEARD), rollout([7, 8]))
    assert batch.tokens.input_ids.tolist() == [10, 11, *IDS, 10, 11, 7, 8]
    assert batch.tokens.position_ids.tolist() == [*range(9), *range(4)]
    assert batch.tokens.targets.tolist() == [1, 2, 3, 4, 5, 7, 8]
    assert batch.tokens.predictors.tolist() == [1, 2, 3, 6, 7, 10, 11]
    assert batch.sequence_ids.tolist() == [0] * 5 + [1] * 2
    assert batch.positions.tolist() == [0, 1, 2, 5, 6, 0, 1]
    assert batch.behavior_logprobs.size == 7


def loss_and_gradient(batch: PackedMicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient [P, HIDDEN] in the hidden state at each packed token."""
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(batch.tokens.input_ids.size, HIDDEN, generator=rng).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=rng)
    current = token_logprobs(hidden[batch.tokens.predictors], weight, torch.from_numpy(batch.tokens.targets))
    sequence_ids = torch.from_numpy(batch.sequence_ids)
    tokens = SampledTokens(
        old_logprobs=current.logprobs.detach() - 0.3,
        advantages=torch.from_numpy(batch.advantages)[sequence_ids],
        sequence_ids=sequence_ids,
    )
    algorithm = AlgorithmConfig.model_validate({"entropy_bonus": 0.01})
    loss = micro_batch_objective(algorithm, tokens, current, float(sequence_ids.numel())).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    return loss.detach(), hidden.grad


def predicts_nothing_sampled() -> list[int]:
    """Where the hidden state predicts no sampled token: in the prompt, before 30 and 31, and at each end."""
    return [0, 4, 5, 8, 9, 12]


def require_no_gradient_on_heard_tokens(batch: PackedMicroBatch) -> None:
    _, gradient = loss_and_gradient(batch)
    silent = torch.zeros(gradient.shape[0], dtype=torch.bool)
    silent[predicts_nothing_sampled()] = True
    assert (gradient[silent] == 0).all()
    assert (gradient[~silent].abs().sum(dim=1) > 0).all()


def test_the_gradient_is_exactly_zero_on_heard_tokens() -> None:
    require_no_gradient_on_heard_tokens(packed(rollout(IDS, HEARD), rollout([7, 8])))


def test_heard_tokens_that_are_let_into_the_loss_are_noticed() -> None:
    with pytest.raises(AssertionError):
        require_no_gradient_on_heard_tokens(packed(rollout(IDS), rollout([7, 8])))


def test_the_loss_is_that_of_a_mask_over_padded_tokens() -> None:
    batch = packed(rollout(IDS, HEARD), rollout([7, 8]))
    loss, _ = loss_and_gradient(batch)
    rng = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(13, HIDDEN, generator=rng), torch.randn(VOCABULARY, HIDDEN, generator=rng)
    table = (hidden @ weight.T).log_softmax(-1)
    rows = [[1, 2, 3, 4, 5, 6, 7], [10, 11, 0, 0, 0, 0, 0]]
    targets = [IDS, [7, 8, 0, 0, 0, 0, 0]]
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0]])
    logprobs = table[torch.tensor(rows), torch.tensor(targets)]
    entropy = -(table.exp() * table).sum(-1)[torch.tensor(rows)][mask.bool()].sum() / 7
    config = AlgorithmConfig.model_validate({})
    expected = policy_loss(config.loss, logprobs, logprobs - 0.3, torch.tensor([1.0, -1.5]), mask) - 0.01 * entropy
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_heard_tokens_take_room_in_a_micro_batch_but_do_not_count_in_the_loss() -> None:
    spoken = make_report(0, 3, [4, 5])
    report = replace(spoken, heard_tokens=np.asarray([6, 0], np.int32))
    advantages = np.asarray([1.0, -1.0], np.float32)
    layouts = [
        lay_out_batch(0, [make_scored(one, advantages)], mini_batches=1, ranks=1, micro_batch_tokens=16)
        for one in (spoken, report)
    ]
    assert [batch.loss_tokens for batch in layouts] == [(9,), (9,)]
    assert [len(batch.shards[0][0]) for batch in layouts] == [1, 2]
    with pytest.raises(ValueError, match="heard_tokens must be empty or have 2 entries"):
        replace(spoken, heard_tokens=np.asarray([6], np.int32))


def test_the_overlong_penalty_is_on_sampled_and_heard_tokens_together() -> None:
    verdicts = (make_verdict(1.0), make_verdict(1.0))
    report = replace(make_report(0, 3, [50, 90], verdicts), heard_tokens=np.asarray([40, 0], np.int32))
    algorithm = AlgorithmConfig.model_validate({"overlong": {"buffer_tokens": 20, "penalty": 1.0}})
    assert score_group(report, algorithm, 100).rewards.tolist() == [0.5, 0.5]
