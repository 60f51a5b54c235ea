"""Inside the trust region: what is reported is what the loss did."""

import math

import pytest
import torch

from maspo_dist.algorithm import (
    Totals,
    extreme_metrics,
    merge_extremes,
    ratio_extremes,
    token_loss,
    trust_region_metrics,
    trust_region_totals,
)
from maspo_dist.config import CispoLoss, ClipLoss, DppoLoss, GspoLoss, LossConfig, MaspoLoss

EDGES = {"1e-4": 1e-4, "1e-2": 1e-2, "0.1": 0.1, "0.5": 0.5, "0.9": 0.9, "1": 1.0}
TIGHT = MaspoLoss(
    sigma_base=0.3, alpha=0.5, sigma_max=0.8, beta_pos=0.5, beta_neg=0.5, risk_min=0.7, risk_max=1.4,
    negative_ratio_cap=2.0,
)  # fmt: skip


def _batch(tokens: int = 500) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(11)
    old = -12 * torch.rand(tokens, dtype=torch.float64, generator=generator) ** 2
    logprobs = old + 0.5 * torch.randn(tokens, dtype=torch.float64, generator=generator)
    logprobs[3] = old[3] + 22
    advantages = torch.randn(tokens, dtype=torch.float64, generator=generator)
    advantages[::9] = 0
    entropy = torch.rand(tokens, dtype=torch.float64, generator=generator)
    return logprobs, old, advantages, entropy, torch.arange(tokens) // 10


def _totals(config: LossConfig, batch: tuple[torch.Tensor, ...]) -> Totals:
    logprobs, old, advantages, entropy, ids = batch
    gate = token_loss(config, logprobs, old, advantages, ids).gate
    return trust_region_totals(config, logprobs, old, advantages, gate, entropy)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


@pytest.mark.parametrize(
    "config", [TIGHT, ClipLoss(), CispoLoss(), GspoLoss(epsilon_low=0.1, epsilon_high=0.1), DppoLoss()]
)
def test_global_numbers_agree_with_a_token_by_token_count(config: LossConfig) -> None:
    batch = _batch()
    logprobs, old, advantages, entropy, ids = batch
    gate = token_loss(config, logprobs, old, advantages, ids).gate.tolist()
    delta = [min(max(d, -20), 20) for d in (logprobs - old).tolist()]
    rho, a = [math.exp(d) for d in delta], advantages.tolist()
    weight = [abs(x) * r for x, r in zip(a, rho, strict=True)]
    kept = [w * g * (abs(d) < 20) for w, g, d in zip(weight, gate, delta, strict=True)]
    cut = [(x > 0 and r > 1.2) or (x < 0 and r < 0.8) for x, r in zip(a, rho, strict=True)]
    kept_by_ppo = [w * (not c) * (abs(d) < 20) for w, c, d in zip(weight, cut, delta, strict=True)]
    rare = [w for w, c, x, p in zip(weight, cut, a, old.exp().tolist(), strict=True) if c and x > 0 and p <= 0.1]
    metrics = trust_region_metrics(config, _totals(config, batch))
    want = {
        "ratio/max": max(rho),
        "ratio/min": min(rho),
        "ratio/mean": _mean(rho),
        "ratio/share_outside_ppo_clip": _mean([r > 1.2 or r < 0.8 for r in rho]),
        "ratio/share_at_limit": 1 / 500,
        "gate/mean": _mean(gate),
        "gate/share_below_0.99": _mean([g < 0.99 for g in gate]),
        "gate/share_below_0.5": _mean([g < 0.5 for g in gate]),
        "gradient/weight_kept": sum(kept) / sum(weight),
        "gradient/weight_lost": 1 - sum(kept) / sum(weight),
        "gradient/weight_kept_by_ppo_clip": sum(kept_by_ppo) / sum(weight),
        "gradient/share_cut_by_ppo_clip": _mean(cut),
        "gradient/rare_positive_cut_by_ppo_clip": sum(rare) / sum(weight),
        "policy/kl_k1": _mean([-d for d in delta]),
        "policy/kl_k3": _mean([r - 1 - d for r, d in zip(rho, delta, strict=True)]),
        "policy/entropy": _mean(entropy.tolist()),
    }
    assert {name: metrics[name] for name in want} == pytest.approx(want, rel=1e-9)


def test_buckets_agree_with_a_token_by_token_count() -> None:
    batch = _batch()
    logprobs, old, advantages, entropy, ids = batch
    gate = token_loss(TIGHT, logprobs, old, advantages, ids).gate
    delta = (logprobs - old).clamp(-20, 20)
    rho, p = delta.exp(), old.exp()
    metrics = trust_region_metrics(TIGHT, _totals(TIGHT, batch))
    low = 0.0
    for name, high in EDGES.items():
        for sign, side in (("pos", advantages > 0), ("neg", advantages < 0)):
            here = side & (p > low) & (p <= high)
            assert bool(here.any())
            weight = advantages[here].abs() * rho[here]
            kept = (weight * gate[here] * (delta[here].abs() < 20)).sum() / weight.sum()
            cut = (rho > 1.2) if sign == "pos" else (rho < 0.8)
            want = {
                "token_share": here.double().mean(),
                "ratio_mean": rho[here].mean(),
                "gate_mean": gate[here].mean(),
                "share_gate_below_0.99": (gate[here] < 0.99).double().mean(),
                "share_gate_below_0.5": (gate[here] < 0.5).double().mean(),
                "weight_kept": kept,
                "weight_lost": 1 - kept,
                "share_cut_by_ppo_clip": cut[here].double().mean(),
                "kl_k1": -delta[here].mean(),
                "kl_k3": (rho - 1 - delta)[here].mean(),
                "entropy": entropy[here].mean(),
            }
            for key, value in want.items():
                got = metrics[f"trust_region/{sign}/{name}/{key}"]
                assert got == pytest.approx(value.item(), rel=1e-9, abs=1e-12), key
        low = high


def test_a_probability_on_an_edge_belongs_below_it() -> None:
    edges = torch.tensor(list(EDGES.values()), dtype=torch.float64).log()
    one = torch.ones_like(edges)
    metrics = trust_region_metrics(ClipLoss(), trust_region_totals(ClipLoss(), edges, edges, one, one, one))
    for name in EDGES:
        assert metrics[f"trust_region/pos/{name}/token_share"] == pytest.approx(1 / 6)


def test_clamps_are_counted_where_the_gate_acts() -> None:
    # (π_old, A, ρ): σ_base 0.3, α ½, σ_max 0.8; risk 1 ± A/2 in [0.7, 1.4]
    rows = [
        (1.0, 0.2, 1.5),  # mass at its base
        (1e-3, 0.2, 1.5),  # mass at its maximum
        (0.5, 3.0, 1.5),  # risk at its maximum
        (0.5, -3.0, 0.5),  # risk at its minimum
        (0.5, 0.2, 1.5),  # gated, nothing clamped
        (1.0, 9.0, 0.5),  # not gated: no clamp counts
        (1.0, -0.1, 2.5),  # beyond the cap on negative tokens
        (1.0, 0.0, 2.0),
    ]
    p, advantages, rho = torch.tensor(rows, dtype=torch.float64).unbind(dim=1)
    old, ids = p.log(), torch.arange(len(rows))
    metrics = trust_region_metrics(TIGHT, _totals(TIGHT, (old + rho.log(), old, advantages, torch.zeros(8), ids)))
    assert metrics["gate/share_gated"] == 5 / 8
    assert metrics["gate/share_capped"] == 1 / 8
    for name in ("share_mass_at_sigma_base", "share_mass_at_sigma_max", "share_risk_at_max", "share_risk_at_min"):
        assert metrics[f"gate/{name}"] == 1 / 5, name
    assert metrics["trust_region/pos/1/share_mass_at_sigma_base"] == 1.0
    assert metrics["trust_region/pos/1e-2/share_mass_at_sigma_max"] == 1.0
    assert metrics["trust_region/pos/0.5/share_risk_at_max"] == 0.5
    assert metrics["trust_region/neg/0.5/share_risk_at_min"] == 1.0
    assert metrics["trust_region/pos/1/share_gated"] == 0.5


def test_a_clamp_that_is_only_near_does_not_count() -> None:
    # mass 0.3 / √0.99 just above its base, 0.3 / √0.15 just below its maximum; risks 1.39 and 1 / 1.42
    rows = [(0.99, 0.78, 1.5), (0.15, -0.84, 0.5)]
    p, advantages, rho = torch.tensor(rows, dtype=torch.float64).unbind(dim=1)
    old = p.log()
    metrics = trust_region_metrics(TIGHT, _totals(TIGHT, (old + rho.log(), old, advantages, 0 * rho, torch.arange(2))))
    assert metrics["gate/share_gated"] == 1
    for name in ("share_mass_at_sigma_base", "share_mass_at_sigma_max", "share_risk_at_max", "share_risk_at_min"):
        assert metrics[f"gate/{name}"] == 0, name


def test_tokens_that_did_not_move_are_not_gated() -> None:
    old, advantages = torch.full((2,), -0.5, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    metrics = trust_region_metrics(TIGHT, _totals(TIGHT, (old, old, advantages, 0 * old, torch.arange(2))))
    assert metrics["gate/share_gated"] == 0


def test_only_the_positive_side_is_gated_where_the_negative_side_clips() -> None:
    config = TIGHT.model_copy(update={"negative": "clip"})
    rows = [(1.0, 1.5), (1.0, 0.5), (-1.0, 0.9), (-1.0, 0.5), (-1.0, 1.5)]
    advantages, rho = torch.tensor(rows, dtype=torch.float64).unbind(dim=1)
    zero = torch.zeros_like(rho)
    metrics = trust_region_metrics(config, _totals(config, (rho.log(), zero, advantages, zero, torch.arange(5))))
    assert metrics["gate/share_gated"] == 1 / 5
    assert metrics["gate/share_mass_at_sigma_base"] == 1
    assert metrics["trust_region/neg/1/weight_kept"] == pytest.approx((0.9 + 1.5) / (0.9 + 0.5 + 1.5))


def test_the_cap_is_counted_for_negative_tokens_beyond_it() -> None:
    rows = [(-1.0, 2.5), (-1.0, 3.0), (-1.0, 1.5), (-1.0, 0.9), (0.2, 2.5), (0.0, 2.5), (1.0, 3.0)]
    advantages, rho = torch.tensor(rows, dtype=torch.float64).unbind(dim=1)
    zero = torch.zeros_like(rho)
    metrics = trust_region_metrics(TIGHT, _totals(TIGHT, (rho.log(), zero, advantages, zero, torch.arange(7))))
    assert metrics["gate/share_capped"] == 2 / 7


def test_without_any_advantage_no_weight_is_kept_or_lost() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    metrics = trust_region_metrics(TIGHT, _totals(TIGHT, (zero, zero, zero, zero, torch.arange(3))))
    assert metrics["gradient/weight_kept"] == metrics["gradient/weight_lost"] == 0
    assert metrics["gradient/rare_positive_cut_by_ppo_clip"] == 0
    assert metrics["gate/share_risk_at_max"] == metrics["gate/share_gated"] == 0


def test_clamps_without_room_bind_at_both_ends() -> None:
    config = MaspoLoss(alpha=0, sigma_max=1, beta_pos=0, beta_neg=0, risk_min=1, risk_max=1)
    one = torch.ones(1, dtype=torch.float64)
    metrics = trust_region_metrics(config, _totals(config, (0 * one, -one, one, one, torch.arange(1))))
    for name in ("share_mass_at_sigma_base", "share_mass_at_sigma_max", "share_risk_at_max", "share_risk_at_min"):
        assert metrics[f"gate/{name}"] == 1, name


def test_totals_add_up_over_micro_batches_and_ranks() -> None:
    batch = _batch()
    whole = trust_region_metrics(TIGHT, _totals(TIGHT, batch))
    parts = _totals(TIGHT, tuple(tensor[:70] for tensor in batch))
    for cut in (slice(70, 70), slice(70, 310), slice(310, 500)):
        parts = parts + _totals(TIGHT, tuple(tensor[cut] for tensor in batch))
    assert trust_region_metrics(TIGHT, parts) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("config", [MaspoLoss(), ClipLoss()])
def test_every_step_has_the_same_metrics_and_only_a_loss_that_clips_has_clip_metrics(config: LossConfig) -> None:
    metrics = trust_region_metrics(config, _totals(config, _batch()))
    stable = {"ratio/max", "gate/mean", "gate/share_below_0.99", "policy/kl_k3", "policy/entropy"}
    assert stable <= metrics.keys()
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert not any("clip" in name and "ppo" not in name for name in metrics)
    assert ("gate/share_mass_at_sigma_max" in metrics) is isinstance(config, MaspoLoss)


def test_empty_buckets_have_a_token_share_and_nothing_else() -> None:
    one = torch.ones(1, dtype=torch.float64)
    metrics = trust_region_metrics(ClipLoss(), trust_region_totals(ClipLoss(), 0 * one, 0 * one, one, one, one))
    assert [name for name in metrics if name.startswith("trust_region/neg/1e-4/")] == [
        "trust_region/neg/1e-4/token_share"
    ]


def test_no_tokens_report_nothing() -> None:
    nothing = _totals(MaspoLoss(), tuple(tensor[:0] for tensor in _batch()))
    assert trust_region_metrics(MaspoLoss(), nothing) == {}


def test_statistics_carry_no_gradient() -> None:
    logprobs, old, advantages, entropy, ids = _batch()
    logprobs.requires_grad_()
    entropy.requires_grad_()
    totals = _totals(MaspoLoss(), (logprobs, old, advantages, entropy, ids))
    assert not totals.sums.requires_grad
    assert not totals.maxima.requires_grad


def test_the_tokens_with_extreme_ratios_are_named() -> None:
    generator = torch.Generator().manual_seed(2)
    old = -5 * torch.rand(60, generator=generator)
    logprobs = old + torch.randn(60, generator=generator)
    where = torch.arange(60)
    columns = (logprobs, old, torch.ones(60), torch.full((60,), 0.5), where + 1000, where % 20, where // 20)
    parts = [ratio_extremes(*(column[cut] for column in columns)) for cut in (slice(0, 3), slice(3, 3), slice(3, 60))]
    metrics = extreme_metrics(merge_extremes(torch.stack(parts)))
    order = (logprobs - old).argsort().tolist()
    for end, token in (("max", order[-1]), ("min", order[0])):
        want = {
            "ratio": (logprobs - old)[token].exp().item(),
            "old_probability": old[token].exp().item(),
            "advantage": 1.0,
            "gate": 0.5,
            "token_id": token + 1000,
            "position": token % 20,
            "group_id": token // 20,
        }
        got = {name: metrics.pop(f"ratio/{end}_token/{name}") for name in want}
        assert got == pytest.approx(want, rel=1e-6)
    assert not metrics


def test_without_tokens_no_token_is_named() -> None:
    none = torch.zeros(0)
    assert extreme_metrics(ratio_extremes(*[none] * 7)) == {}
