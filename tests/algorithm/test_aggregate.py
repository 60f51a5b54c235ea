"""From token values to a scalar, with the denominators of the whole optimizer step."""

import pytest
import torch

from maspo_dist.algorithm import aggregate
from maspo_dist.config import AggregateMode

VALUES = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0], dtype=torch.float64)
IDS = torch.tensor([5, 5, 5, 2, 2])


@pytest.mark.parametrize(
    ("mode", "denominator", "want"),
    [
        ("token-mean", 5.0, 36 / 5),
        ("token-mean", 10.0, 36 / 10),
        ("seq-mean-token-sum", 2.0, (6 + 30) / 2),
        ("seq-mean-token-mean", 2.0, (2 + 15) / 2),
        ("seq-mean-token-mean", 4.0, (2 + 15) / 4),
    ],
)
def test_each_mode_gives_the_sum_worked_out_by_hand(mode: AggregateMode, denominator: float, want: float) -> None:
    # 1e-8 is added to lengths, as the authors do
    assert aggregate(VALUES, IDS, mode, denominator).item() == pytest.approx(want, rel=1e-8)


def test_tokens_of_a_response_need_not_lie_together() -> None:
    mixed = torch.tensor([0, 3, 1, 4, 2])
    got = aggregate(VALUES[mixed], IDS[mixed], "seq-mean-token-mean", 2.0)
    assert got.item() == pytest.approx(8.5, rel=1e-8)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"])
def test_an_empty_micro_batch_adds_zero_and_still_has_a_backward(mode: AggregateMode) -> None:
    values = torch.zeros(0, requires_grad=True)
    loss = aggregate(values, torch.zeros(0, dtype=torch.int64), mode, 8.0)
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize("denominator", [0.0, -1.0, float("nan")])
def test_a_denominator_that_is_not_positive_is_refused(denominator: float) -> None:
    with pytest.raises(ValueError, match="denominator must be above 0"):
        aggregate(VALUES, IDS, "token-mean", denominator)


@pytest.mark.parametrize("mode", ["token_mean", "seq-mean-token-sum-norm", "mean", ""])
def test_a_mode_that_does_not_exist_is_refused(mode: AggregateMode) -> None:
    modes = "token-mean, seq-mean-token-sum or seq-mean-token-mean"
    with pytest.raises(ValueError, match=f"^mode must be {modes}, got '{mode}'$"):
        aggregate(VALUES, IDS, mode, 5.0)
