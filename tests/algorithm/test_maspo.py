"""MASPO, one row for every branch: advantage sign × ratio side × each clamp, worked out by hand."""

import math

import pytest
import torch

from maspo_dist.algorithm import TokenLoss, token_loss
from maspo_dist.config import ClipLoss, MaspoLoss

# Settings under which every clamp is within easy reach: p^−α is 1/√p.
SETTINGS = MaspoLoss(sigma_base=1.0, alpha=0.5, sigma_max=2.0, beta_pos=0.5, beta_neg=0.25, risk_min=0.5, risk_max=1.5)
NARROW_RISK_ABOVE_ONE = SETTINGS.model_copy(update={"risk_min": 1.25})
NARROW_RISK_BELOW_ONE = SETTINGS.model_copy(update={"risk_max": 0.8})
WIDER_BASE = SETTINGS.model_copy(update={"sigma_base": 1.5, "sigma_max": 6.0})
CAPPED = SETTINGS.model_copy(update={"negative_ratio_cap": 3.0})

HALF, ONE, TWO = math.exp(-1 / 8), math.exp(-1 / 2), math.exp(-2)  # gates at 0.5, 1 and 2 widths from ρ = 1

# id, settings, advantage, π_old, ρ, gate
ROWS = [
    ("A>0, ratio 1: open", SETTINGS, 0.4, 0.64, 1.0, 1.0),
    ("A<0, ratio 1: open", SETTINGS, -0.4, 0.64, 1.0, 1.0),
    ("A>0, ratio below 1: open", SETTINGS, 0.4, 0.64, 0.25, 1.0),
    ("A<0, ratio above 1: open", SETTINGS, -0.4, 0.64, 5.0, 1.0),
    ("A>0, ratio just below 1: open", SETTINGS, 0.4, 0.64, 0.75, 1.0),
    ("A<0, ratio just above 1: open", SETTINGS, -0.4, 0.64, 1.005, 1.0),
    ("A<0, ratio above 1, within reach: open", SETTINGS, -0.4, 0.64, 1.75, 1.0),
    ("A=0, ratio above 1: open", SETTINGS, 0.0, 0.64, 5.0, 1.0),
    ("A=0, ratio below 1: open", SETTINGS, 0.0, 0.64, 0.2, 1.0),
    # A > 0 and ρ > 1: σ = m · (1 + A/2)
    ("A>0, mass free: σ = 1.25 · 1.2 = 1.5", SETTINGS, 0.4, 0.64, 1.75, HALF),
    ("A>0, certain token: σ = 1 · 1.2", SETTINGS, 0.4, 1.0, 2.2, ONE),
    ("A>0, mass at σ_base (p above 1): σ = 1 · 1.2", SETTINGS, 0.4, 4.0, 1.6, HALF),
    ("A>0, mass at σ_max: σ = 2 · 1.2", SETTINGS, 0.4, 0.01, 5.8, TWO),
    ("A>0, other σ_base: σ = 1.5 · 1.25 · 1.2 = 2.25", WIDER_BASE, 0.4, 0.64, 3.25, ONE),
    ("A>0, other σ_max: σ = 6 · 1.2", WIDER_BASE, 0.4, 0.01, 8.2, ONE),
    ("A>0, risk at its maximum: σ = 1 · 1.5", SETTINGS, 4.0, 1.0, 2.5, ONE),
    ("A>0, risk at its minimum: σ = 1 · 1.25", NARROW_RISK_ABOVE_ONE, 0.2, 1.0, 3.5, TWO),
    ("A>0, ratio just above 1: σ = 1 · 1.25", SETTINGS, 0.5, 1.0, 1.005, math.exp(-(0.004**2) / 2)),
    ("A>0, far beyond the gate: closed", SETTINGS, 0.4, 1.0, 100.0, 0.0),
    # A < 0 and ρ < 1: σ = m / (1 + |A|/4)
    ("A<0, mass free: σ = 1.25 · 0.8 = 1", SETTINGS, -1.0, 0.64, 0.5, HALF),
    ("A<0, certain token: σ = 1 · 0.8", SETTINGS, -1.0, 1.0, 0.2, ONE),
    ("A<0, mass at σ_base (p above 1): σ = 1 · 0.8", SETTINGS, -1.0, 4.0, 0.6, HALF),
    ("A<0, mass at σ_max: σ = 2 · 0.8", SETTINGS, -1.0, 0.01, 0.2, HALF),
    ("A<0, risk at its minimum: σ = 1 · 0.5", SETTINGS, -12.0, 1.0, 0.5, ONE),
    ("A<0, risk at its maximum: σ = 1 · 0.8", NARROW_RISK_BELOW_ONE, -0.1, 1.0, 0.2, ONE),
]


def one_token(config: MaspoLoss, advantage: float, old: float, logprob: float) -> tuple[TokenLoss, float]:
    """Loss and gradient of a single float64 token."""
    current = torch.tensor([logprob], dtype=torch.float64, requires_grad=True)
    loss = token_loss(
        config,
        current,
        torch.tensor([old], dtype=torch.float64),
        torch.tensor([advantage], dtype=torch.float64),
        torch.tensor([0]),
    )
    (gradient,) = torch.autograd.grad(loss.values.sum(), current)
    return loss, gradient.item()


@pytest.mark.parametrize(
    ("config", "advantage", "p", "rho", "gate"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
def test_gate_loss_and_gradient_of_every_branch(
    config: MaspoLoss, advantage: float, p: float, rho: float, gate: float
) -> None:
    old = math.log(p)
    loss, gradient = one_token(config, advantage, old, old + math.log(rho))
    assert loss.gate.item() == pytest.approx(gate, rel=1e-12, abs=1e-300)
    assert loss.values.item() == pytest.approx(-advantage * gate * rho, rel=1e-12, abs=1e-300)
    # The gate is held fixed, so the gradient is −A · w · ρ as well.
    assert gradient == pytest.approx(-advantage * gate * rho, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("advantage", "rho", "value", "gradient", "gate"),
    [
        (-1.0, 2.9, 2.9, 2.9, 1.0),
        (-1.0, 4.0, 3.0, 0.0, 0.0),
        (-2.0, 4.0, 6.0, 0.0, 0.0),
        (1.0, 4.0, -4.0 * TWO, -4.0 * TWO, TWO),  # σ = 1 · 1.5
        (0.2, 3.2, -0.64 * TWO, -0.64 * TWO, TWO),  # σ = 1 · 1.1
        (0.0, 4.0, 0.0, 0.0, 1.0),
    ],
)
def test_negative_ratio_cap_bounds_only_negative_tokens(
    advantage: float, rho: float, value: float, gradient: float, gate: float
) -> None:
    loss, got = one_token(CAPPED, advantage, 0.0, math.log(rho))
    assert (loss.values.item(), got, loss.gate.item()) == pytest.approx((value, gradient, gate), rel=1e-12)


@pytest.mark.parametrize(
    ("advantage", "rho", "value", "gradient", "gate"),
    [
        (-1.0, 0.9, 0.9, 0.9, 1.0),
        (-1.0, 0.5, 0.8, 0.0, 0.0),
        (-2.0, 0.5, 1.6, 0.0, 0.0),
        (-1.0, 4.0, 4.0, 4.0, 1.0),
        (1.0, 0.5, -0.5, -0.5, 1.0),
        (1.0, 4.0, -4.0 * TWO, -4.0 * TWO, TWO),  # σ = 1 · 1.5
        (0.0, 0.5, 0.0, 0.0, 1.0),
    ],
)
def test_the_negative_side_can_clip_as_ppo_does(
    advantage: float, rho: float, value: float, gradient: float, gate: float
) -> None:
    loss, got = one_token(SETTINGS.model_copy(update={"negative": "clip"}), advantage, 0.0, math.log(rho))
    assert (loss.values.item(), got, loss.gate.item()) == pytest.approx((value, gradient, gate), rel=1e-12)


def test_a_clipped_negative_side_is_ppo_there_and_maspo_elsewhere_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(5)
    old = -6 * torch.rand(500, generator=generator)
    advantages = torch.randn(500, generator=generator)
    advantages[::7] = 0
    moved = old + 0.5 * torch.randn(500, generator=generator)

    def computed(config: MaspoLoss | ClipLoss) -> list[torch.Tensor]:
        logprobs = moved.clone().requires_grad_()
        loss = token_loss(config, logprobs, old, advantages, torch.arange(500))
        return [loss.values.detach(), loss.gate, *torch.autograd.grad(loss.values.sum(), logprobs)]

    both = computed(MaspoLoss(negative="clip"))
    for got, maspo, clip in zip(both, computed(MaspoLoss()), computed(ClipLoss()), strict=True):
        assert torch.equal(got, torch.where(advantages < 0, clip, maspo))


def test_the_default_is_the_paper_s_loss_to_the_last_bit() -> None:
    assert MaspoLoss().negative == "maspo"
    generator = torch.Generator().manual_seed(6)
    old = -6 * torch.rand(500, generator=generator)
    advantages = torch.randn(500, generator=generator)
    logprobs = old + 0.5 * torch.randn(500, generator=generator)
    ratio = (logprobs - old).exp()
    mass = (-0.3 * old).clamp(0.0, math.log(10.0)).exp()
    risk = torch.where(advantages > 0, 1 + 0.03 * advantages, 1 / (1 - 0.03 * advantages))
    gated = ((advantages > 0) & (ratio > 1)) | ((advantages < 0) & (ratio < 1))
    gate = torch.where(gated, (-(((ratio - 1) / (mass * risk)) ** 2) / 2).exp(), 1.0)
    loss = token_loss(MaspoLoss(), logprobs, old, advantages, torch.arange(500))
    assert torch.equal(loss.gate, gate)
    assert torch.equal(loss.values, -advantages * gate * ratio)


def test_gradient_still_flows_at_the_cap_itself() -> None:
    at_cap = torch.tensor(1.0, dtype=torch.float64).exp().item()
    loss, gradient = one_token(SETTINGS.model_copy(update={"negative_ratio_cap": at_cap}), -1.0, 0.0, 1.0)
    assert (loss.gate.item(), gradient) == (1.0, at_cap)


def test_log_ratio_is_clamped_at_20_and_carries_no_gradient_beyond() -> None:
    for beyond in (20.5, 1e4):
        loss, gradient = one_token(SETTINGS, -1.0, -beyond, 0.0)
        assert loss.values.item() == pytest.approx(math.exp(20), rel=1e-12)
        assert gradient == 0
    loss, gradient = one_token(SETTINGS, 1.0, 0.0, -30.0)
    assert loss.values.item() == pytest.approx(-math.exp(-20), rel=1e-12)
    assert gradient == 0
    loss, gradient = one_token(SETTINGS, -1.0, -19.5, 0.0)
    assert gradient == loss.values.item() == pytest.approx(math.exp(19.5), rel=1e-12)


def test_ablation_switches_turn_mass_and_risk_off() -> None:
    old, rho, advantage = math.log(0.25), 2.0, 0.5
    cases = {  # defaults: σ_base 1, α 0.3, β_pos 0.03
        "gate only": (MaspoLoss(alpha=0, beta_pos=0, beta_neg=0), 1.0),
        "with mass": (MaspoLoss(beta_pos=0, beta_neg=0), 0.25**-0.3),
        "with mass and risk": (MaspoLoss(), 0.25**-0.3 * 1.015),
    }
    for name, (config, sigma) in cases.items():
        loss, _ = one_token(config, advantage, old, old + math.log(rho))
        assert loss.gate.item() == pytest.approx(math.exp(-1 / (2 * sigma**2)), rel=1e-12), name


def test_mass_never_underflows() -> None:
    config = MaspoLoss(sigma_max=1e12)
    for old in (-80.0, -104.0):  # exp(−104) is 0 in float32
        current = torch.tensor([old + 10.0])
        loss = token_loss(config, current, torch.tensor([old]), torch.tensor([1.0]), torch.tensor([0]))
        sigma = math.exp(-0.3 * old) * 1.03 if math.exp(-0.3 * old) < 1e12 else 1e12 * 1.03
        assert loss.gate.item() == pytest.approx(math.exp(-((math.exp(10) - 1) ** 2) / (2 * sigma**2)), rel=1e-5)


def test_differentiated_gate_turns_the_gradient_around_past_its_peak() -> None:
    config = MaspoLoss(alpha=0, beta_pos=0, beta_neg=0, differentiate_gate=True)
    peak = (1 + math.sqrt(5)) / 2  # (1 + √(1 + 4σ²)) / 2 at σ = 1
    for rho, sign in ((peak - 0.01, -1), (peak + 0.01, 1)):
        _, gradient = one_token(config, 1.0, 0.0, math.log(rho))
        assert math.copysign(1, gradient) == sign
    # d/dlogπ of −wρ is −wρ·(1 − ρ(ρ − 1)/σ²); at ρ = 2 that is −2·e^−½·(1 − 2).
    loss, gradient = one_token(config, 1.0, 0.0, math.log(2.0))
    assert gradient == pytest.approx(2 * ONE, rel=1e-12)
    assert not loss.gate.requires_grad
    capped, _ = one_token(config.model_copy(update={"negative_ratio_cap": 3.0}), 1.0, 0.0, math.log(2.0))
    assert not capped.gate.requires_grad


def test_gradient_passes_gradcheck_with_the_gate_held_fixed() -> None:
    generator = torch.Generator().manual_seed(3)
    old = -3 * torch.rand(64, dtype=torch.float64, generator=generator)
    logprobs = (old + torch.randn(64, dtype=torch.float64, generator=generator)).requires_grad_()
    advantages = torch.randn(64, dtype=torch.float64, generator=generator)
    ids = torch.zeros(64, dtype=torch.int64)
    loss = token_loss(MaspoLoss(), logprobs, old, advantages, ids)

    def with_fixed_gate(current: torch.Tensor) -> torch.Tensor:
        return -advantages * loss.gate * (current - old).exp()

    assert torch.autograd.gradcheck(with_fixed_gate, (logprobs,))
    (got,) = torch.autograd.grad(loss.values.sum(), logprobs)
    (want,) = torch.autograd.grad(with_fixed_gate(logprobs).sum(), logprobs)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_differentiated_gate_passes_gradcheck() -> None:
    generator = torch.Generator().manual_seed(4)
    old = -3 * torch.rand(64, dtype=torch.float64, generator=generator)
    logprobs = (old + torch.randn(64, dtype=torch.float64, generator=generator)).requires_grad_()
    advantages = torch.randn(64, dtype=torch.float64, generator=generator)
    config = MaspoLoss(differentiate_gate=True, negative_ratio_cap=3.0)
    ids = torch.zeros(64, dtype=torch.int64)
    assert torch.autograd.gradcheck(lambda x: token_loss(config, x, old, advantages, ids).values, (logprobs,))
