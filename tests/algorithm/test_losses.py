"""Every loss: agreement with the float64 oracle, dtypes, refusals."""

import math
import re

import loss_oracle as oracle
import pytest
import torch
from pydantic import ValidationError

from maspo_dist.algorithm import token_loss
from maspo_dist.config import (
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
    MaspoLoss(alpha=0.7, sigma_base=0.2, sigma_max=0.9, beta_pos=0.4, beta_neg=0.6, risk_min=0.7, risk_max=1.3),
    MaspoLoss(differentiate_gate=True),
    MaspoLoss(negative_ratio_cap=3.0),
    MaspoLoss(negative="clip"),
    MaspoLoss(negative="clip", negative_ratio_cap=3.0, differentiate_gate=True),
    ClipLoss(),
    ClipLoss(epsilon_high=0.28, dual_clip=3.0),
    SapoLoss(),
    SapoLoss(tau_pos=0.5, tau_neg=3.0),
    GspoLoss(),
    GspoLoss(epsilon_low=0.2, epsilon_high=0.4),
    CispoLoss(),
    CispoLoss(epsilon_low=1.0, epsilon_high=3.0),
    DacLoss(),
    BapoLoss(),
    DppoLoss(),
    DppoLoss(threshold_low=0.05, threshold_high=0.3, penalty=0.5),
]
IDS = [f"{config.kind}-{number}" for number, config in enumerate(CONFIGS)]


def _batch(tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    old = -8 * torch.rand(tokens, dtype=torch.float64, generator=generator) ** 3
    old[::37] = -1e4
    old[::41] = 0.0
    logprobs = old + 0.8 * torch.randn(tokens, dtype=torch.float64, generator=generator)
    logprobs[::53] = old[::53]
    logprobs[5::59] = old[5::59] + 25
    logprobs[7::59] = old[7::59] - 25
    advantages = 2 * torch.randn(tokens, dtype=torch.float64, generator=generator)
    advantages[::29] = 0.0
    advantages[::31] *= 100
    return logprobs, old, advantages, torch.arange(tokens) // 11


def _by_oracle(config: LossConfig, x: list[float], old: list[float], a: list[float], ids: list[int]) -> torch.Tensor:
    tokens: list[oracle.Token] = []
    if isinstance(config, GspoLoss):
        for response in sorted(set(ids)):
            members = [i for i, owner in enumerate(ids) if owner == response]
            tokens += oracle.gspo(config, [x[i] for i in members], [old[i] for i in members], [a[i] for i in members])
        return torch.tensor(tokens, dtype=torch.float64)
    for row in zip(x, old, a, strict=True):
        match config:
            case MaspoLoss():
                tokens.append(oracle.maspo(config, *row))
            case ClipLoss():
                tokens.append(oracle.clip(config, *row))
            case SapoLoss():
                tokens.append(oracle.sapo(config, *row))
            case CispoLoss():
                tokens.append(oracle.cispo(config, *row))
            case DacLoss():
                tokens.append(oracle.dac(config, *row))
            case DppoLoss():
                tokens.append(oracle.dppo(config, *row))
            case BapoLoss():
                tokens.append(oracle.bapo(config.lower_start, config.upper_start, *row))
    return torch.tensor(tokens, dtype=torch.float64)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_loss_gradient_and_gate_agree_with_the_oracle(config: LossConfig) -> None:
    logprobs, old, advantages, ids = _batch()
    logprobs.requires_grad_()
    loss = token_loss(config, logprobs, old, advantages, ids)
    (gradient,) = torch.autograd.grad(loss.values.sum(), logprobs)
    got = torch.stack((loss.values.detach(), gradient, loss.gate), dim=1)
    want = _by_oracle(config, logprobs.tolist(), old.tolist(), advantages.tolist(), ids.tolist())
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precision_is_computed_in_float32(config: LossConfig, dtype: torch.dtype) -> None:
    logprobs, old, advantages, ids = (t[20:31] for t in _batch())
    low = [t.to(dtype) for t in (logprobs, old, advantages)]
    loss = token_loss(config, *low, ids)
    exact = token_loss(config, *(t.float() for t in low), ids)
    assert loss.values.dtype == loss.gate.dtype == torch.float32
    assert torch.equal(loss.values, exact.values)
    assert torch.equal(loss.gate, exact.gate)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_no_tokens_give_no_loss(config: LossConfig) -> None:
    none = torch.zeros(0)
    loss = token_loss(config, none, none, none, torch.zeros(0, dtype=torch.int64))
    assert loss.values.shape == loss.gate.shape == (0,)


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must all be \[N\]"):
        token_loss(MaspoLoss(), torch.zeros(3), torch.zeros(3), torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"must all be \[N\]"):
        token_loss(MaspoLoss(), *[torch.zeros(3, 2)] * 4)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_gradient_flows_through_logprobs_only(config: LossConfig) -> None:
    logprobs, old, advantages, ids = _batch(40)
    inputs = [tensor.requires_grad_() for tensor in (logprobs, old, advantages)]
    loss = token_loss(config, *inputs, ids)
    gradients = torch.autograd.grad(loss.values.sum(), inputs, allow_unused=True)
    assert [gradient is None for gradient in gradients] == [False, True, True]
    assert not loss.gate.requires_grad


# Rows worked out by hand: config, A, π_old, ρ, value, gradient
_E = math.e
BASELINE_ROWS = [
    (ClipLoss(), 1.0, 0.5, 1.1, -1.1, -1.1),
    (ClipLoss(), 1.0, 0.5, 1.5, -1.2, 0.0),
    (ClipLoss(), 1.0, 0.5, 0.5, -0.5, -0.5),
    (ClipLoss(), -1.0, 0.5, 0.5, 0.8, 0.0),
    (ClipLoss(), -1.0, 0.5, 9.0, 9.0, 9.0),
    (ClipLoss(epsilon_high=0.28), 1.0, 0.5, 1.25, -1.25, -1.25),
    (ClipLoss(epsilon_high=0.28), 1.0, 0.5, 1.3, -1.28, 0.0),
    (ClipLoss(dual_clip=3.0), -1.0, 0.5, 9.0, 3.0, 0.0),
    (ClipLoss(dual_clip=3.0), 1.0, 0.5, 0.1, -0.1, -0.1),
    (SapoLoss(), 1.0, 0.5, 1.0, -2.0, -1.0),
    (SapoLoss(), -1.0, 0.5, 1.0, 2 / 1.05, 1.0),
    (SapoLoss(), 1.0, 0.5, 2.0, -4 * _E / (1 + _E), -8 * _E / (1 + _E) ** 2),
    (CispoLoss(), 1.0, 1.0, 2.0, -1.2 * math.log(2), -1.2),
    (CispoLoss(), -1.0, 1.0, 0.5, -0.8 * math.log(2), 0.8),
    (CispoLoss(epsilon_low=0.3), -1.0, 1.0, 0.5, -0.7 * math.log(2), 0.7),
    (CispoLoss(epsilon_high=0.3), 1.0, 1.0, 2.0, -1.3 * math.log(2), -1.3),
    (GspoLoss(), 1.0, 0.5, 1.0003, -1.0003, -1.0003),
    (GspoLoss(), 1.0, 0.5, 1.0005, -1.0004, 0.0),
    (GspoLoss(), -1.0, 0.5, 0.9996, 0.9997, 0.0),
    # q = 0.8: lower ½ + ½√(1 − 0.8), upper ½ + ½√2.  q = 0.1: lower ½, upper ½ + ½√9 = 2.
    (DacLoss(), 1.0, 0.8, 1.3, -(0.5 + 0.5 * math.sqrt(2)), 0.0),
    (DacLoss(), -1.0, 0.8, 0.7, 0.5 + 0.5 * math.sqrt(0.2), 0.0),
    (DacLoss(), 1.0, 0.1, 1.9, -1.9, -1.9),
    (DacLoss(), 1.0, 0.1, 2.1, -2.0, 0.0),
    (DacLoss(), -1.0, 0.1, 0.4, 0.5, 0.0),
    (BapoLoss(), 1.0, 0.5, 1.3, -1.2, 0.0),
    (BapoLoss(), -1.0, 0.5, 0.7, 0.8, 0.0),
    # The probability rises by .1 and by .25, and falls by .1 and by .25; past .2 only the penalty is left.
    (DppoLoss(penalty=0), 1.0, 0.5, 1.2, -1.2, -1.2),
    (DppoLoss(penalty=0), 1.0, 0.5, 1.5, 0.0, 0.0),
    (DppoLoss(penalty=0), -1.0, 0.5, 0.8, 0.8, 0.8),
    (DppoLoss(penalty=0), -1.0, 0.5, 0.5, 0.0, 0.0),
    (DppoLoss(penalty=0.1), -1.0, 0.5, 0.5, 0.1 * math.log(2) ** 2, -0.2 * math.log(2)),
    (DppoLoss(penalty=0.1), 1.0, 0.5, 1.5, 0.1 * math.log(1.5) ** 2, 0.2 * math.log(1.5)),
    # A rare token may grow nineteenfold, from .01 to .19; twenty-two-fold is too far.
    (DppoLoss(penalty=0), 1.0, 0.01, 19.0, -19.0, -19.0),
    (DppoLoss(penalty=0), 1.0, 0.01, 22.0, 0.0, 0.0),
    (DppoLoss(threshold_high=0.05, penalty=0), 1.0, 0.5, 1.2, 0.0, 0.0),
    (DppoLoss(threshold_low=0.05, penalty=0), -1.0, 0.5, 0.8, 0.0, 0.0),
    # Moves against the advantage are never masked.
    (DppoLoss(penalty=0), -1.0, 0.1, 9.0, 9.0, 9.0),
    (DppoLoss(penalty=0), 1.0, 0.9, 0.1, -0.1, -0.1),
    (DppoLoss(penalty=1), 1.0, 0.5, 1.0, -1.0, -1.0),
    (DppoLoss(penalty=1), 0.0, 0.5, 1.5, 0.0, 0.0),
]


@pytest.mark.parametrize(("config", "advantage", "p", "rho", "value", "gradient"), BASELINE_ROWS)
def test_baselines_give_the_values_and_gradients_worked_out_by_hand(
    config: LossConfig, advantage: float, p: float, rho: float, value: float, gradient: float
) -> None:
    current = torch.tensor([math.log(p * rho)], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([math.log(p)], dtype=torch.float64)
    loss = token_loss(config, current, old, torch.tensor([advantage], dtype=torch.float64), torch.tensor([0]))
    (got,) = torch.autograd.grad(loss.values.sum(), current)
    assert (loss.values.item(), got.item()) == pytest.approx((value, gradient), rel=1e-9, abs=1e-12)


def test_gspo_gives_every_token_its_response_s_ratio() -> None:
    config = GspoLoss(epsilon_low=0.5, epsilon_high=0.5)
    current = torch.tensor([0.1, 0.3, -0.2, 0.0], dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([4, 4, 9, 9])
    loss = token_loss(config, current, torch.zeros(4, dtype=torch.float64), -torch.ones(4, dtype=torch.float64), ids)
    (gradient,) = torch.autograd.grad(loss.values.sum(), current)
    want = torch.tensor([math.exp(0.2)] * 2 + [math.exp(-0.1)] * 2, dtype=torch.float64)
    torch.testing.assert_close(loss.values.detach(), want)
    torch.testing.assert_close(gradient, want)


def test_the_sequence_ratio_is_clamped_at_e_to_the_10() -> None:
    for difference, gradient in ((9.5, math.exp(9.5)), (10.5, 0.0)):
        current = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
        old, minus_one = torch.tensor([-difference]).double(), torch.tensor([-1.0]).double()
        loss = token_loss(GspoLoss(), current, old, minus_one, torch.tensor([0]))
        (got,) = torch.autograd.grad(loss.values.sum(), current)
        assert loss.values.item() == pytest.approx(math.exp(min(difference, 10)))
        assert got.item() == pytest.approx(gradient)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_gradient_still_flows_at_a_clip_bound_itself(advantage: float) -> None:
    old = torch.zeros(1, dtype=torch.float64)
    for delta in (0.5, -0.5):
        current = torch.tensor([delta], dtype=torch.float64, requires_grad=True)
        bound = current.detach().exp().item()
        low, high = min(bound, 1.0), max(bound, 1.0)
        config = BapoLoss(lower_start=low, lower_stop=low, upper_start=high, upper_stop=high)
        loss = token_loss(config, current, old, torch.tensor([advantage]), torch.tensor([0]))
        (got,) = torch.autograd.grad(loss.values.sum(), current)
        assert (loss.gate.item(), got.item()) == (1.0, -advantage * bound)
    dual = ClipLoss(dual_clip=torch.tensor(1.0).double().exp().item())
    loss = token_loss(dual, old + 1, old, torch.tensor([-1.0]), torch.tensor([0]))
    assert loss.gate.item() == 1


def test_dac_without_slack_clips_at_1_however_small_the_probability() -> None:
    config = DacLoss(epsilon_low=0, epsilon_high=0)
    for old in (-1e4, -1.0):
        start = torch.tensor([old, old], dtype=torch.float64)
        moved, sign = torch.tensor([0.1, -0.1]).double(), torch.tensor([1.0, -1.0]).double()
        loss = token_loss(config, start + moved, start, sign, torch.tensor([0, 1]))
        assert loss.values.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("section", "settings", "says"),
    [
        (MaspoLoss, {"sigma_base": 0}, "greater than 0"),
        (MaspoLoss, {"sigma_base": -1}, "greater than 0"),
        (MaspoLoss, {"sigma_base": 2, "sigma_max": 1}, "sigma_max must be at least sigma_base (2)"),
        (MaspoLoss, {"sigma_max": 0}, "greater than 0"),
        (MaspoLoss, {"beta_pos": -0.1}, "greater than or equal to 0"),
        (MaspoLoss, {"beta_neg": -0.1}, "greater than or equal to 0"),
        (MaspoLoss, {"risk_min": 0}, "greater than 0"),
        (MaspoLoss, {"risk_min": 2, "risk_max": 1}, "risk_max must be at least risk_min (2)"),
        (MaspoLoss, {"alpha": math.nan}, "finite"),
        (MaspoLoss, {"negative_ratio_cap": 1}, "greater than 1"),
        (ClipLoss, {"epsilon_low": 1}, "less than 1"),
        (ClipLoss, {"epsilon_high": -0.1}, "greater than or equal to 0"),
        (ClipLoss, {"dual_clip": 1}, "greater than 1"),
        (SapoLoss, {"tau_pos": 0}, "greater than 0"),
        (SapoLoss, {"tau_neg": -1}, "greater than 0"),
        (GspoLoss, {"epsilon_low": 1}, "less than 1"),
        (CispoLoss, {"epsilon_low": -0.1}, "greater than or equal to 0"),
        (DacLoss, {"epsilon_low": -1}, "greater than or equal to 0"),
        (BapoLoss, {"lower_stop": 0.5}, "lower_stop must be at least lower_start (0.8)"),
        (BapoLoss, {"upper_stop": 1.1}, "upper_stop must be at least upper_start (1.2)"),
        (BapoLoss, {"lower_step": 0}, "greater than"),
        (BapoLoss, {"target": 0}, "greater than 0"),
        (DppoLoss, {"threshold_low": -0.1}, "greater than or equal to 0"),
        (DppoLoss, {"threshold_high": -0.1}, "greater than or equal to 0"),
        (DppoLoss, {"penalty": -1}, "greater than or equal to 0"),
        (MaspoLoss, {"negative": "cut"}, "'maspo' or 'clip'"),
    ],
)
def test_impossible_settings_are_refused_with_their_range(
    section: type[LossConfig], settings: dict[str, float | str], says: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        section(**settings)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_the_paper_s_range_is_allowed_with_a_warning(alpha: float) -> None:
    with pytest.warns(UserWarning, match=r"the paper's range is \[0, 1\]"):
        MaspoLoss(alpha=alpha)
