"""A loss of the user's own, from a module outside the packages, goes through everything that a built-in loss does."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import yaml
from doubles.own_loss import BrokenLoss, CauchyLoss, PlainLoss, WronglySeparableLoss

from maspo_dist.algorithm import (
    SampledTokens,
    check_loss,
    micro_batch_objective,
    token_loss,
    trust_region_metrics,
    trust_region_totals,
)
from maspo_dist.algorithm.logprobs import TokenLogprobs
from maspo_dist.config import (
    AlgorithmConfig,
    BapoLoss,
    CispoLoss,
    ClipLoss,
    DacLoss,
    DppoLoss,
    GspoLoss,
    LossConfig,
    MaspoLoss,
    SapoLoss,
    TrainConfig,
    build_config,
    dump_config,
    resume_changes,
)
from maspo_dist.errors import ConfigError

CAUCHY = "python:doubles.own_loss:CauchyLoss"


def train_config(*overrides: str, **loss: Any) -> TrainConfig:
    tree: dict[str, Any] = {
        "run": {"name": "test", "max_steps": 10},
        "model": {"path": "model"},
        "data": {"train": ["train.jsonl"]},
        "rollout": {"prompts_per_step": 8, "max_response_tokens": 64},
        "algorithm": {"loss": loss},
    }
    return build_config(TrainConfig, tree, overrides)


def test_it_is_built_from_its_keys_and_survives_a_dump_and_a_pickle() -> None:
    config = train_config(kind=CAUCHY, tau=2)
    assert config.algorithm.loss == CauchyLoss(tau=2.0)
    assert build_config(TrainConfig, yaml.safe_load(dump_config(config))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    overridden = train_config(f"algorithm.loss.kind={CAUCHY}", "algorithm.loss.tau=3", kind="maspo", alpha=0.5)
    assert overridden.algorithm.loss == CauchyLoss(tau=3.0)


def test_a_class_used_in_python_knows_its_own_name() -> None:
    assert CauchyLoss().kind == CAUCHY
    assert AlgorithmConfig(loss=PlainLoss()).model_dump()["loss"] == {"kind": "python:doubles.own_loss:PlainLoss"}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"kind": CAUCHY, "tua": 2}, "algorithm.loss.tua: no such key (value 2); did you mean tau?"),
        ({"kind": CAUCHY, "tau": "wide"}, "algorithm.loss.tau: input should be a valid number, "),
        ({"kind": CAUCHY, "tau": -1}, "algorithm.loss.tau: input should be greater than 0, got -1"),
        ({"kind": "clipp"}, "algorithm.loss.kind: no such loss (value 'clipp'); did you mean clip?"),
        ({"kind": "ppo"}, "algorithm.loss.kind: no such loss (value 'ppo'); known losses: 'maspo', 'clip', "),
        ({"kind": 3}, "algorithm.loss.kind: no such loss (value 3); known losses: "),
        ({"kind": "python:doubles"}, "algorithm.loss.kind: 'python:doubles' is not of the form python:module:Name"),
        (
            {"kind": "python:doubles.own_loss:NotALoss"},
            "algorithm.loss.kind is 'python:doubles.own_loss:NotALoss', which is no loss: derive the class from ",
        ),
        ({"kind": "python:no_such:Loss"}, "algorithm.loss.kind is 'python:no_such:Loss', but importing no_such fails "),
    ],
)
def test_a_mistake_in_its_section_is_one_sentence(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        train_config(**loss)
    assert str(refused.value).startswith(message)


def test_a_trust_region_that_does_nothing_is_refused_and_a_loss_without_one_is_not() -> None:
    with pytest.raises(ConfigError, match=f"the {CAUCHY} trust region does nothing"):
        train_config("algorithm.mini_batches=1", kind=CAUCHY)
    train_config("algorithm.mini_batches=1", kind="python:doubles.own_loss:PlainLoss")


def test_a_change_of_its_parameter_matters_for_a_resume() -> None:
    before = train_config(kind=CAUCHY, tau=2)
    (change,), others = resume_changes(dump_config(before), train_config(kind=CAUCHY, tau=3))
    assert (change.key, change.before, change.now, others) == ("algorithm.loss.tau", 2.0, 3.0, [])
    without_its_module = dump_config(before).replace("own_loss", "lost_loss")
    assert "algorithm.loss.kind" in [change.key for change in resume_changes(without_its_module, train_config())[0]]


def test_value_gradient_and_gate_are_those_of_its_formula() -> None:
    old = torch.tensor([-1.0, -2.0])
    logprobs = (old + torch.tensor([0.5, -0.5])).requires_grad_()
    loss = token_loss(CauchyLoss(tau=0.5), logprobs, old, torch.tensor([1.0, -2.0]), torch.tensor([0, 0]))
    ratio = torch.tensor([0.5, -0.5]).exp()
    gate = 1 / (1 + (2 * (ratio - 1)) ** 2)
    torch.testing.assert_close(loss.gate, gate)
    torch.testing.assert_close(loss.values.detach(), torch.tensor([-1.0, 2.0]) * gate * ratio)
    (gradient,) = torch.autograd.grad(loss.values.sum(), logprobs)
    torch.testing.assert_close(gradient, torch.tensor([-1.0, 2.0]) * gate * ratio)


def test_its_trust_region_is_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(50, generator=generator)
    current = TokenLogprobs((old + 0.3 * torch.randn(50, generator=generator)).requires_grad_(), torch.ones(50))
    tokens = SampledTokens(
        old_logprobs=old, advantages=torch.randn(50, generator=generator), sequence_ids=torch.arange(50) // 10
    )
    config = AlgorithmConfig(loss=CauchyLoss(tau=0.2))
    objective = micro_batch_objective(config, tokens, current, 50.0)
    totals = trust_region_totals(
        config.loss, current.logprobs, old, objective.advantages, objective.gate, current.entropy
    )
    metrics = trust_region_metrics(config.loss, totals)
    assert metrics["gate/mean"] == pytest.approx(objective.gate.mean().item())
    assert 0 < metrics["gradient/weight_lost"] < 1
    assert "trust_region/pos/0.5/gate_mean" in metrics


@pytest.mark.parametrize(
    "loss",
    [
        CauchyLoss(),
        PlainLoss(),
        MaspoLoss(),
        MaspoLoss(negative="clip"),
        ClipLoss(dual_clip=3.0),
        SapoLoss(),
        GspoLoss(),
        CispoLoss(),
        DacLoss(),
        BapoLoss(),
        DppoLoss(),
    ],
)
def test_losses_that_keep_the_contract_pass_the_check(loss: LossConfig) -> None:
    check_loss(loss)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"but its token_loss fails \(RuntimeError: no such thing\)$"),
        ("no tokens", r"but its token_loss fails \(RuntimeError: "),
        ("a mean", r"but its values are torch.float32\[\] instead of float32\[5\]"),
        ("live gate", r"but its gate carries gradient or leaves \[0, 1\]: detach and clamp the gate"),
        ("closed gate", "but its gate is not 1 where the ratio is 1"),
        ("no gradient", "but its values carry no gradient"),
        ("infinite", "but its values or their gradient are not finite"),
    ],
)
def test_a_breach_of_the_contract_is_named_before_a_run_starts(how: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_loss(BrokenLoss(how=how))


def test_a_loss_that_is_wrongly_called_separable_is_found_out() -> None:
    with pytest.raises(ConfigError, match="set is_separable to False"):
        check_loss(WronglySeparableLoss())
