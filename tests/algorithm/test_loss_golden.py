"""The authors' own functions, run on seeded inputs: our losses, gradients and advantages agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maspo_dist.algorithm import aggregate, group_advantages, policy_loss, token_loss
from maspo_dist.config import CispoLoss, ClipLoss, GspoLoss, LossConfig, MaspoLoss, SapoLoss

_FILE = json.loads((Path(__file__).parents[1] / "golden" / "policy_loss_reference.json").read_text())
_CASES = {case["id"]: case for case in _FILE["cases"]}
_LOSSES = [name for name, case in _CASES.items() if case["algo"] in ("maspo", "vanilla", "sapo", "gspo", "cispo")]
_GROUPS = [name for name, case in _CASES.items() if case["algo"] == "grpo_advantage"]
_AGGREGATES = [name for name, case in _CASES.items() if case["algo"] == "agg_loss"]


def assert_close(got: torch.Tensor, want: Any, tolerance: str) -> None:
    """The file's own rule: |got − want| ≤ rtol·|want| + atol_rel·max|want|."""
    bounds = _FILE["suggested_tolerance"][tolerance]
    expected = torch.as_tensor(want, dtype=torch.float64)
    allowed = bounds["rtol"] * expected.abs() + bounds["atol_rel"] * expected.abs().max()
    gap = (got.double() - expected).abs() - allowed
    assert bool((gap <= 0).all()), f"off by {gap.max():.3g} beyond the tolerance"


def _config(case: dict[str, Any]) -> LossConfig:
    hyper = case["hyper"]
    match case["algo"]:
        case "maspo":
            return MaspoLoss(
                sigma_base=hyper["sigma_base"],
                alpha=hyper["alpha"],
                sigma_max=hyper["sigma_high"],
                beta_pos=hyper["beta_pos"],
                beta_neg=hyper["beta_neg"],
                risk_min=hyper["adv_low"],
                risk_max=hyper["adv_high"],
            )
        case "sapo":
            return SapoLoss(tau_pos=hyper["tau_pos"], tau_neg=hyper["tau_neg"])
        case "vanilla":
            return ClipLoss(
                epsilon_low=hyper["clip_ratio_low"],
                epsilon_high=hyper["clip_ratio_high"],
                dual_clip=hyper["clip_ratio_c"],
            )
        case "gspo":
            return GspoLoss(epsilon_low=hyper["clip_ratio_low"], epsilon_high=hyper["clip_ratio_high"])
        case "cispo":
            return CispoLoss(epsilon_low=hyper["clip_ratio_low"], epsilon_high=hyper["clip_ratio_high"])
    raise AssertionError(case["algo"])


def _denominator(case: dict[str, Any], mask: torch.Tensor) -> float:
    """Tokens or sequences of the optimizer step; the authors scale by dp_size, DDP then averages."""
    step = case["global_batch_info"]
    by_tokens = case["loss_agg_mode"] == "token-mean"
    if step:
        return (step["batch_num_tokens"] if by_tokens else step["global_batch_size"]) / step["dp_size"]
    return float(mask.sum() if by_tokens else mask.any(dim=1).sum())


def _packed(rows: list[list[float]], mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype)[mask]


@pytest.mark.parametrize("name", _LOSSES)
def test_loss_and_gradient_match_the_authors(name: str) -> None:
    case = _CASES[name]
    dtype = getattr(torch, case["dtype"])
    inputs = case["inputs"]
    mask = torch.tensor(inputs["response_mask"], dtype=torch.bool)
    sequence_ids = torch.arange(len(mask))[:, None].expand(mask.shape)[mask]
    logprobs = _packed(inputs["log_prob"], mask, dtype).requires_grad_()
    values = token_loss(
        _config(case),
        logprobs,
        _packed(inputs["old_log_prob"], mask, dtype),
        _packed(inputs["advantages"], mask, dtype),
        sequence_ids,
    ).values
    if "rollout_is_weights" in inputs:
        values = values * _packed(inputs["rollout_is_weights"], mask, dtype)

    loss = aggregate(values, sequence_ids, case["loss_agg_mode"], _denominator(case, mask))
    (gradient,) = torch.autograd.grad(loss, logprobs)

    assert loss.dtype == dtype
    padded = torch.zeros(mask.shape, dtype=dtype)
    padded[mask] = gradient
    assert_close(loss.detach(), case["outputs"]["loss"], case["dtype"])
    assert_close(padded, case["outputs"]["grad_log_prob"], case["dtype"])


@pytest.mark.parametrize("name", [name for name in _LOSSES if "rollout_is_weights" not in _CASES[name]["inputs"]])
def test_the_loss_on_padded_tensors_matches_the_authors(name: str) -> None:
    case = _CASES[name]
    dtype = getattr(torch, case["dtype"])
    mask = torch.tensor(case["inputs"]["response_mask"], dtype=torch.bool)
    logprobs, old, advantages = (
        torch.tensor(case["inputs"][key], dtype=dtype) for key in ("log_prob", "old_log_prob", "advantages")
    )
    logprobs.requires_grad_()
    mode, denominator = case["loss_agg_mode"], _denominator(case, mask)
    loss = policy_loss(_config(case), logprobs, old, advantages, mask, mode=mode, denominator=denominator)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert_close(loss.detach(), case["outputs"]["loss"], case["dtype"])
    assert_close(gradient, case["outputs"]["grad_log_prob"], case["dtype"])


@pytest.mark.parametrize("name", _AGGREGATES)
def test_aggregate_matches_the_authors(name: str) -> None:
    case = _CASES[name]
    dtype = getattr(torch, case["dtype"])
    mask = torch.tensor(case["inputs"]["response_mask"], dtype=torch.bool)
    sequence_ids = torch.arange(len(mask))[:, None].expand(mask.shape)[mask]
    values = _packed(case["inputs"]["loss_mat"], mask, dtype).requires_grad_()
    mode, denominator = case["loss_agg_mode"], _denominator(case, mask)
    if mode == "seq-mean-token-sum-norm":  # a plain sum over a constant, the padded length
        mode, denominator = "seq-mean-token-sum", float(mask.shape[1])

    loss = aggregate(values, sequence_ids, mode, denominator)
    (gradient,) = torch.autograd.grad(loss, values)

    padded = torch.zeros(mask.shape, dtype=dtype)
    padded[mask] = gradient
    assert_close(loss.detach(), case["outputs"]["loss"], case["dtype"])
    assert_close(padded, case["outputs"]["grad_loss_mat"], case["dtype"])


@pytest.mark.parametrize("name", _GROUPS)
def test_group_advantages_match_the_authors(name: str) -> None:
    case = _CASES[name]
    dtype = getattr(torch, case["dtype"])
    mask = torch.tensor(case["inputs"]["response_mask"], dtype=dtype)
    rewards = torch.tensor(case["inputs"]["token_level_rewards"], dtype=dtype).sum(dim=1)
    groups = np.array(case["inputs"]["group_index"])
    want = torch.tensor(case["outputs"]["advantages"], dtype=torch.float64)
    for group in np.unique(groups):
        members = torch.from_numpy(np.flatnonzero(groups == group))
        advantages = group_advantages(rewards[members], case["hyper"]["norm_adv_by_std"])
        if len(members) == 1:  # the authors leave a group of one uncentred; it carries no signal
            assert advantages.item() == 0
        else:
            assert_close(advantages[:, None] * mask[members], want[members], "grpo_advantage")
