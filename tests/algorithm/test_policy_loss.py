"""The loss on padded tensors is the loss on packed tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maspo_dist.algorithm import aggregate, policy_loss, token_loss
from maspo_dist.config import (
    AggregateMode,
    BapoLoss,
    CispoLoss,
    ClipLoss,
    DacLoss,
    DppoLoss,
    GspoLoss,
    LossConfig,
    MaspoLoss,
    SapoLoss,
)

LOSSES = [MaspoLoss(), MaspoLoss(negative="clip"), ClipLoss(dual_clip=3.0), SapoLoss(), GspoLoss(), CispoLoss()]
LOSSES += [DacLoss(), BapoLoss(), DppoLoss()]
MODES: list[AggregateMode] = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]


def batch(lengths: list[int], padding: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """logprobs, old_logprobs [B, T], advantages [B] and mask [B, T]; what the mask leaves out is NaN."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths) + padding)[None] < torch.tensor(lengths)[:, None]
    draw = torch.randn((2, len(lengths), max(lengths)), generator=generator).abs().neg()
    grown = torch.full((2, *mask.shape), torch.nan)
    grown[:, :, : max(lengths)] = draw
    grown[:, ~mask] = torch.nan
    advantages = torch.randn(len(lengths), generator=generator)
    return grown[0].requires_grad_(), grown[1], advantages, mask


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("config", LOSSES, ids=lambda config: config.kind)
def test_the_loss_on_padded_tensors_equals_the_loss_on_packed_tokens(config: LossConfig, mode: AggregateMode) -> None:
    logprobs, old_logprobs, advantages, mask = batch([5, 1, 9, 0], padding=2)
    packed = logprobs.detach()[mask].requires_grad_()
    sequence_ids = torch.repeat_interleave(torch.arange(4), mask.sum(1))
    values = token_loss(config, packed, old_logprobs[mask], advantages[sequence_ids], sequence_ids).values
    expected = aggregate(values, sequence_ids, mode, 15.0 if mode == "token-mean" else 3.0)
    got = policy_loss(config, logprobs, old_logprobs, advantages, mask, mode=mode)
    assert torch.equal(got, expected)
    got.backward()
    expected.backward()
    assert logprobs.grad is not None and packed.grad is not None
    assert torch.equal(logprobs.grad[mask], packed.grad)
    assert bool((logprobs.grad[~mask] == 0).all())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any), st.integers(0, 4), st.integers(0, 99))
@settings(deadline=None)
def test_padding_changes_nothing(lengths: list[int], padding: int, seed: int) -> None:
    bare = policy_loss(MaspoLoss(), *batch(lengths, 0, seed))
    assert torch.equal(policy_loss(MaspoLoss(), *batch(lengths, padding, seed)), bare)


def test_shares_of_micro_batches_add_up_to_the_step() -> None:
    logprobs, old_logprobs, advantages, mask = batch([5, 1, 9, 3], padding=0)
    whole = policy_loss(MaspoLoss(), logprobs, old_logprobs, advantages, mask)
    halves = [
        policy_loss(MaspoLoss(), logprobs[s], old_logprobs[s], advantages[s], mask[s], denominator=18.0)
        for s in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(halves[0] + halves[1], whole)


def test_one_advantage_per_token_may_be_given() -> None:
    logprobs, old_logprobs, advantages, mask = batch([5, 2], padding=1)
    spread = advantages[:, None].expand_as(logprobs)
    wanted = policy_loss(MaspoLoss(), logprobs, old_logprobs, advantages, mask)
    assert torch.equal(policy_loss(MaspoLoss(), logprobs, old_logprobs, spread, mask.float()), wanted)


def test_a_batch_without_tokens_costs_nothing() -> None:
    logprobs, old_logprobs, advantages, mask = batch([1], padding=1)
    loss = policy_loss(MaspoLoss(), logprobs, old_logprobs, advantages, torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize(
    ("advantages", "mask", "said"),
    [
        (torch.ones(3), torch.ones(2, 4), r"advantages must be \[B\] or \[B, T\] with \[B, T\] = \[2, 4\], got \[3\]"),
        (torch.ones(2), torch.ones(2, 5), r"must all be \[B, T\], got \[2, 4\], \[2, 4\], \[2, 5\]"),
    ],
)
def test_unequal_shapes_are_refused(advantages: torch.Tensor, mask: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        policy_loss(MaspoLoss(), torch.zeros(2, 4), torch.zeros(2, 4), advantages, mask)


@pytest.mark.parametrize(("mode", "denominator"), [("token_mean", None), ("mean", 8.0)])
def test_a_mode_that_does_not_exist_is_refused(mode: AggregateMode, denominator: float | None) -> None:
    ones = torch.ones(2, 4)
    with pytest.raises(ValueError, match=rf"^mode must be token-mean, .*, got '{mode}'$"):
        policy_loss(MaspoLoss(), ones, ones, ones, ones, mode=mode, denominator=denominator)
