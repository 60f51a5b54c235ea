"""What holds for any input: bounds of the gate, exact zeros, finiteness, independence of layout."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maspo_dist.algorithm import aggregate, token_loss
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

CONFIGS: list[LossConfig] = [
    MaspoLoss(),
    MaspoLoss(differentiate_gate=True, negative_ratio_cap=3.0),
    MaspoLoss(negative="clip"),
    ClipLoss(dual_clip=3.0),
    SapoLoss(),
    GspoLoss(),
    CispoLoss(),
    DacLoss(),
    BapoLoss(),
    DppoLoss(),
]
MODES: list[AggregateMode] = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]

configs = st.sampled_from(CONFIGS)
quick = settings(max_examples=60, deadline=None)

# (logπ_old, logπ − logπ_old, advantage)
tokens = st.tuples(st.floats(-1e4, 0), st.floats(-30, 30), st.floats(-50, 50))
any_float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
moderate = st.tuples(st.floats(-12, 0), st.floats(-2, 2), st.floats(-3, 3))
responses = st.lists(st.lists(moderate, min_size=1, max_size=6), min_size=1, max_size=5)


def _tensors(rows: list[tuple[float, float, float]], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    old, delta, advantage = torch.tensor(rows, dtype=dtype).reshape(-1, 3).unbind(dim=1)
    return (old + delta).requires_grad_(), old, advantage


def _loss_and_gradient(
    config: LossConfig, rows: list[tuple[float, float, float]], ids: list[int], mode: AggregateMode, denominator: float
) -> tuple[float, torch.Tensor]:
    logprobs, old, advantage = _tensors(rows)
    sequence_ids = torch.tensor(ids, dtype=torch.int64)
    values = token_loss(config, logprobs, old, advantage, sequence_ids).values
    loss = aggregate(values, sequence_ids, mode, denominator)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), gradient


@quick
@given(configs, st.lists(tokens, min_size=1, max_size=20))
def test_the_gate_lies_between_0_and_1(config: LossConfig, rows: list[tuple[float, float, float]]) -> None:
    logprobs, old, advantage = _tensors(rows)
    gate = token_loss(config, logprobs, old, advantage, torch.arange(len(rows))).gate
    assert not gate.requires_grad
    assert bool(((gate >= 0) & (gate <= 1)).all())


@quick
@given(configs, st.lists(tokens, min_size=1, max_size=20))
def test_the_gate_is_1_and_the_gradient_minus_a_where_nothing_moved(
    config: LossConfig, rows: list[tuple[float, float, float]]
) -> None:
    _, old, advantage = _tensors(rows)
    logprobs = old.clone().requires_grad_()
    loss = token_loss(config, logprobs, old, advantage, torch.arange(len(rows)))
    (gradient,) = torch.autograd.grad(loss.values.sum(), logprobs)
    assert torch.equal(loss.gate, torch.ones_like(old))
    torch.testing.assert_close(gradient, -advantage, rtol=1e-12, atol=0)


@quick
@given(
    configs,
    st.lists(st.tuples(any_float32, any_float32, any_float32), min_size=1, max_size=20),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(1, 4),
)
def test_any_finite_input_gives_a_finite_loss_and_gradient(
    config: LossConfig, rows: list[tuple[float, float, float]], dtype: torch.dtype, length: int
) -> None:
    finite = torch.finfo(dtype)
    logprobs, old, advantage = (
        torch.tensor(column, dtype=torch.float64).clamp(finite.min, finite.max).to(dtype)
        for column in zip(*rows, strict=True)
    )
    logprobs.requires_grad_()
    loss = token_loss(config, logprobs, old, advantage, torch.arange(len(rows)) // length)
    (gradient,) = torch.autograd.grad(loss.values.sum(), logprobs)
    assert bool(torch.isfinite(loss.values).all())
    assert bool(torch.isfinite(gradient).all())
    assert bool(torch.isfinite(loss.gate).all())


@pytest.mark.parametrize("config", CONFIGS)
def test_the_largest_float32_values_stay_finite(config: LossConfig) -> None:
    limit = torch.finfo(torch.float32).max
    grid = torch.tensor([limit, -limit, 1.0, -1.0])
    logprobs, old, advantage = torch.cartesian_prod(grid, grid, grid).unbind(dim=1)
    for ids in (torch.arange(64), torch.arange(64) // 32):
        current = logprobs.clone().requires_grad_()
        loss = token_loss(config, current, old, advantage, ids)
        (gradient,) = torch.autograd.grad(loss.values.sum(), current)
        assert bool(torch.isfinite(torch.stack((loss.values.detach(), loss.gate, gradient))).all())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("old", [-1e4, -745.0, -104.0, -80.0, 0.0])
@pytest.mark.parametrize("logprob", [-1e4, -104.0, -1.0, 0.0])
def test_vanishing_probabilities_stay_finite(config: LossConfig, old: float, logprob: float) -> None:
    current = torch.tensor([logprob, logprob], requires_grad=True)
    loss = token_loss(config, current, torch.full((2,), old), torch.tensor([1.0, -1.0]), torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss.values.sum(), current)
    assert bool(torch.isfinite(torch.stack((loss.values.detach(), loss.gate, gradient))).all())


@quick
@given(configs, st.lists(tokens, min_size=2, max_size=20), st.sampled_from(MODES), st.data())
def test_masked_tokens_get_exactly_zero_gradient(
    config: LossConfig, rows: list[tuple[float, float, float]], mode: AggregateMode, data: st.DataObject
) -> None:
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    logprobs, old, advantage = _tensors(rows)
    ids = torch.arange(len(rows))
    for weights, weighed in ((mask.double(), advantage), (torch.ones_like(old), advantage * mask)):
        values = token_loss(config, logprobs, old, weighed, ids).values * weights
        (gradient,) = torch.autograd.grad(aggregate(values, ids, mode, 7.0), logprobs)
        assert bool((gradient[~mask] == 0).all())


@quick
@given(configs, responses, st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_order_of_responses_changes_nothing(
    config: LossConfig, batch: list[list[tuple[float, float, float]]], mode: AggregateMode, shuffler: random.Random
) -> None:
    order = list(range(len(batch)))
    shuffler.shuffle(order)
    rows = [row for response in batch for row in response]
    ids = [i for i, response in enumerate(batch) for _ in response]
    loss, gradient = _loss_and_gradient(config, rows, ids, mode, 13.0)
    pieces = torch.split(gradient, [len(response) for response in batch])
    shuffled_rows = [row for i in order for row in batch[i]]
    shuffled_ids = [100 - 7 * i for i in order for _ in batch[i]]
    shuffled, got = _loss_and_gradient(config, shuffled_rows, shuffled_ids, mode, 13.0)
    assert shuffled == pytest.approx(loss, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(got, torch.cat([pieces[i] for i in order]), rtol=1e-12, atol=1e-15)


@quick
@given(configs, responses, st.sampled_from(MODES))
def test_packing_changes_nothing(
    config: LossConfig, batch: list[list[tuple[float, float, float]]], mode: AggregateMode
) -> None:
    rows = [row for response in batch for row in response]
    ids = [i for i, response in enumerate(batch) for _ in response]
    denominator = float(len(rows) if mode == "token-mean" else len(batch))
    packed, gradient = _loss_and_gradient(config, rows, ids, mode, denominator)
    alone = [_loss_and_gradient(config, response, [0] * len(response), mode, denominator) for response in batch]
    assert math.fsum(loss for loss, _ in alone) == pytest.approx(packed, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(torch.cat([g for _, g in alone]), gradient, rtol=1e-12, atol=1e-15)


@quick
@given(configs, responses, st.sampled_from(MODES), st.integers(1, 4))
def test_padding_with_weight_zero_changes_nothing(
    config: LossConfig, batch: list[list[tuple[float, float, float]]], mode: AggregateMode, padding: int
) -> None:
    rows = [row for response in batch for row in response]
    ids = [i for i, response in enumerate(batch) for _ in response]
    loss, gradient = _loss_and_gradient(config, rows, ids, mode, 5.0)
    # Padding is a response of its own with advantage 0: it enters no length and no sum.
    padded_rows = [*rows, *[(-3.0, 0.5, 0.0)] * padding]
    padded, got = _loss_and_gradient(config, padded_rows, [*ids, *[99] * padding], mode, 5.0)
    assert padded == pytest.approx(loss, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(got[: len(rows)], gradient, rtol=1e-12, atol=1e-15)
    assert bool((got[len(rows) :] == 0).all())
