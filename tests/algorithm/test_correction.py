"""Weights for the mismatch between rollout engine and learner."""

import math

import pytest
import torch

from maspo_dist.algorithm import correction_metrics, correction_weights
from maspo_dist.config import CorrectionConfig

# c per token: response 7 has 4, 1, 1 (geometric mean 4^⅓ = 1.587); response 3 has 0.25, 0.25.
RAW = torch.tensor([4.0, 1.0, 1.0, 0.25, 0.25], dtype=torch.float64)
IDS = torch.tensor([7, 7, 7, 3, 3])
MEAN = 4 ** (1 / 3)


def _weights(config: CorrectionConfig) -> list[float]:
    behavior = torch.full_like(RAW, -3.0)
    return correction_weights(config, behavior + RAW.log(), behavior, IDS).weights.tolist()


@pytest.mark.parametrize(
    ("kind", "level", "want"),
    [
        ("none", "token", [1, 1, 1, 1, 1]),
        ("none", "sequence", [1, 1, 1, 1, 1]),
        ("tis", "token", [2, 1, 1, 0.25, 0.25]),
        ("tis", "sequence", [MEAN, MEAN, MEAN, 0.25, 0.25]),
        ("icepop", "token", [0, 1, 1, 0, 0]),
        ("icepop", "sequence", [MEAN, MEAN, MEAN, 0, 0]),
        ("sequence_mask", "token", [1, 1, 1, 0, 0]),
        ("sequence_mask", "sequence", [1, 1, 1, 0, 0]),
    ],
)
def test_weights_of_each_kind_and_level(kind: str, level: str, want: list[float]) -> None:
    config = CorrectionConfig.model_validate({"kind": kind, "level": level, "lower": 0.5, "upper": 2.0})
    assert _weights(config) == pytest.approx(want)


@pytest.mark.parametrize(("lower", "upper", "want"), [(0.2, 5.0, [4, 1, 1, 0.25, 0.25]), (0.3, 3.0, [0, 1, 1, 0, 0])])
def test_thresholds_are_those_of_the_configuration(lower: float, upper: float, want: list[float]) -> None:
    assert _weights(CorrectionConfig(kind="icepop", lower=lower, upper=upper)) == pytest.approx(want)


@pytest.mark.parametrize("kind", ["tis", "icepop", "sequence_mask"])
def test_a_weight_on_a_threshold_is_accepted(kind: str) -> None:
    delta = torch.tensor([0.5, -0.5], dtype=torch.float64)
    lower, upper = delta[1].exp().item(), delta[0].exp().item()
    config = CorrectionConfig.model_validate({"kind": kind, "lower": lower, "upper": upper})
    correction = correction_weights(config, delta, torch.zeros_like(delta), torch.tensor([0, 1]))
    want = [1.0, 1.0] if kind == "sequence_mask" else [upper, lower]
    assert correction.weights.tolist() == want
    assert set(correction_metrics(config, correction.totals).values()) >= {0.0}


def test_everything_masked_leaves_no_effective_sample() -> None:
    config = CorrectionConfig(kind="icepop")
    far = torch.tensor([3.0, -3.0], dtype=torch.float64)
    metrics = correction_metrics(config, correction_weights(config, far, 0 * far, torch.tensor([0, 1])).totals)
    assert metrics["correction/effective_sample_share"] == 0
    assert metrics["correction/share_masked"] == 1


def test_weights_carry_no_gradient_and_stay_finite() -> None:
    old = torch.tensor([-1e4, 0.0], requires_grad=True)
    behavior = torch.tensor([0.0, -1e4], requires_grad=True)
    for kind in ("none", "tis", "icepop", "sequence_mask"):
        config = CorrectionConfig.model_validate({"kind": kind})
        correction = correction_weights(config, old, behavior, torch.tensor([0, 1]))
        assert not correction.weights.requires_grad
        assert bool(torch.isfinite(correction.weights).all())
        assert bool(torch.isfinite(correction.totals.sums).all())


def test_metrics_report_the_weights_and_what_was_truncated() -> None:
    behavior = torch.full_like(RAW, -3.0)
    config = CorrectionConfig(kind="tis")
    metrics = correction_metrics(config, correction_weights(config, behavior + RAW.log(), behavior, IDS).totals)
    used = [2, 1, 1, 0.25, 0.25]
    assert metrics == pytest.approx(
        {
            "correction/weight_mean": 6.5 / 5,
            "correction/weight_max": 4.0,
            "correction/share_truncated": 1 / 5,
            "correction/effective_sample_share": sum(used) ** 2 / (5 * sum(w * w for w in used)),
            "correction/mismatch_kl_k3": ((4 - 1 - math.log(4)) + 2 * (0.25 - 1 + math.log(4))) / 5,
        }
    )


@pytest.mark.parametrize("kind", ["icepop", "sequence_mask"])
def test_masks_report_a_masked_share_and_no_truncated_share(kind: str) -> None:
    config = CorrectionConfig.model_validate({"kind": kind, "level": "sequence"})
    behavior = torch.full_like(RAW, -3.0)
    metrics = correction_metrics(config, correction_weights(config, behavior + RAW.log(), behavior, IDS).totals)
    assert metrics["correction/share_masked"] == pytest.approx(2 / 5)
    assert "correction/share_truncated" not in metrics


def test_totals_add_up_over_micro_batches_of_whole_responses() -> None:
    config = CorrectionConfig(kind="icepop", level="sequence")
    behavior = torch.full_like(RAW, -3.0)
    old = behavior + RAW.log()
    whole = correction_weights(config, old, behavior, IDS).totals
    first, second = IDS == 7, IDS == 3
    totals = [
        correction_weights(config, old[part], behavior[part], IDS[part]).totals
        for part in (first, second, first & second)  # the last part is empty
    ]
    parts = totals[0] + totals[1] + totals[2]
    torch.testing.assert_close(parts.sums, whole.sums)
    torch.testing.assert_close(parts.maxima, whole.maxima)


def test_no_tokens_report_nothing() -> None:
    none = RAW[:0]
    assert (
        correction_metrics(CorrectionConfig(), correction_weights(CorrectionConfig(), none, none, IDS[:0]).totals) == {}
    )
