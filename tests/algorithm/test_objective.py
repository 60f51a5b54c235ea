"""The parts of the objective, put together for one micro-batch."""

from dataclasses import fields, replace

import pytest
import torch

from maspo_dist.algorithm import (
    SampledTokens,
    correction_weights,
    kl_penalty,
    loss_by_parts,
    micro_batch_objective,
    ratio_extremes,
    token_loss,
    trust_region_totals,
)
from maspo_dist.algorithm.logprobs import TokenLogprobs
from maspo_dist.config import AlgorithmConfig

IDS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])


def _tokens() -> tuple[SampledTokens, TokenLogprobs]:
    generator = torch.Generator().manual_seed(5)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(8, dtype=torch.float64, generator=generator)

    old = -2 + noise(0.3)
    current = TokenLogprobs((old + noise(0.5)).requires_grad_(), noise(1.0).abs().requires_grad_())
    sampled = SampledTokens(
        old_logprobs=old,
        advantages=torch.where(IDS == 0, 1.0, -1.0).double(),
        sequence_ids=IDS,
        behavior_logprobs=old + noise(0.5),
        ref_logprobs=old + noise(0.5),
    )
    return sampled, current


def test_the_plain_objective_is_the_mean_of_the_token_losses() -> None:
    tokens, current = _tokens()
    config = AlgorithmConfig()
    result = micro_batch_objective(config, tokens, current, 8.0)
    loss = token_loss(config.loss, current.logprobs, tokens.old_logprobs, tokens.advantages, IDS)
    torch.testing.assert_close(result.loss, loss.values.mean())
    torch.testing.assert_close(result.policy_loss, loss.values.mean())
    assert result.kl_loss.item() == 0
    assert torch.equal(result.gate, loss.gate)
    assert torch.equal(result.advantages, tokens.advantages)


def test_every_term_enters_with_its_coefficient() -> None:
    tokens, current = _tokens()
    config = AlgorithmConfig.model_validate(
        {
            "correction": "tis",
            "kl": {"coefficient": 0.1, "estimator": "k2"},
            "entropy_bonus": 0.01,
            "advantage": {"entropy": {"alpha": 0.4, "kappa": 2.0}},
        }
    )
    assert tokens.behavior_logprobs is not None
    assert tokens.ref_logprobs is not None
    result = micro_batch_objective(config, tokens, current, 16.0)
    shaped = tokens.advantages + torch.minimum(0.4 * current.entropy.detach(), tokens.advantages.abs() / 2)
    policy = token_loss(config.loss, current.logprobs, tokens.old_logprobs, shaped, IDS).values
    weights = correction_weights(config.correction, tokens.old_logprobs, tokens.behavior_logprobs, IDS).weights
    kl = 0.1 * kl_penalty(current.logprobs, tokens.ref_logprobs, "k2")
    want = (weights * policy + kl - 0.01 * current.entropy).sum() / 16
    torch.testing.assert_close(result.loss, want)
    torch.testing.assert_close(result.kl_loss, kl.sum() / 16)
    torch.testing.assert_close(result.advantages, shaped)
    got = torch.autograd.grad(result.loss, current)
    torch.testing.assert_close(got, torch.autograd.grad(want, current))


def test_kl_in_the_reward_stays_out_of_the_loss() -> None:
    tokens, current = _tokens()
    config = AlgorithmConfig.model_validate({"kl": {"coefficient": 0.1, "place": "reward"}})
    result = micro_batch_objective(config, tokens, current, 8.0)
    torch.testing.assert_close(result.loss, micro_batch_objective(AlgorithmConfig(), tokens, current, 8.0).loss)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({"correction": "icepop"}, "behavior_logprobs"), ({"kl": {"coefficient": 0.1}}, "ref_logprobs")],
)
def test_a_missing_tensor_is_named(settings: dict[str, object], missing: str) -> None:
    whole, current = _tokens()
    tokens = SampledTokens(old_logprobs=whole.old_logprobs, advantages=whole.advantages, sequence_ids=IDS)
    with pytest.raises(ValueError, match=missing):
        micro_batch_objective(AlgorithmConfig.model_validate(settings), tokens, current, 8.0)


def test_micro_batches_add_up_to_the_whole() -> None:
    tokens, current = _tokens()
    config = AlgorithmConfig.model_validate({"aggregate": "seq-mean-token-mean", "correction": "tis"})
    whole = micro_batch_objective(config, tokens, current, 2.0).loss
    parts = []
    for response in (0, 1):
        here = response == IDS
        assert tokens.behavior_logprobs is not None
        assert tokens.old_logprobs is not None
        part = SampledTokens(
            old_logprobs=tokens.old_logprobs[here],
            advantages=tokens.advantages[here],
            sequence_ids=IDS[here],
            behavior_logprobs=tokens.behavior_logprobs[here],
        )
        values = TokenLogprobs(*(tensor[here] for tensor in current))
        parts.append(micro_batch_objective(config, part, values, 2.0).loss)
    torch.testing.assert_close(sum(parts), whole)


PARTS = (slice(0, 2), slice(2, 7), slice(7, 8))
LOSSES = ("maspo", "clip", "sapo", "gspo", "cispo", "dac", "bapo", "dppo")
EVERYTHING = {
    "correction": {"kind": "icepop", "level": "sequence", "lower": 0.0, "upper": 50.0},
    "kl": {"coefficient": 0.1},
    "advantage": {"entropy": {}},
    "aggregate": "seq-mean-token-mean",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_separable_loss_is_one_whose_tokens_do_not_see_each_other(loss: str) -> None:
    config = AlgorithmConfig.model_validate({**EVERYTHING, "loss": {"kind": loss}, "entropy_bonus": 0.01})
    tokens, current = _tokens()
    others = torch.arange(8) != 4
    moved = TokenLogprobs(
        (current.logprobs.detach() - 0.01 * others).requires_grad_(),
        (current.entropy.detach() + 0.5 * others).requires_grad_(),
    )
    gradients = [
        torch.autograd.grad(micro_batch_objective(config, tokens, values, 2.0).loss, values)
        for values in (current, moved)
    ]
    unmoved = all(torch.equal(one[4], other[4]) for one, other in zip(*gradients, strict=True))
    assert unmoved == config.loss.is_separable


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "gspo"])
@pytest.mark.parametrize("entropy_bonus", [0.0, 0.01])
def test_parts_of_the_loss_and_their_gradients_are_those_of_the_whole(loss: str, entropy_bonus: float) -> None:
    settings = {"kind": loss} | ({"lower_start": 0.9, "upper_start": 1.5} if loss == "bapo" else {})
    config = AlgorithmConfig.model_validate({**EVERYTHING, "loss": settings, "entropy_bonus": entropy_bonus})
    tokens, current = _tokens()
    objective = micro_batch_objective(config, tokens, current, 2.0)
    by_logprob, by_entropy = torch.autograd.grad(objective.loss, current, materialize_grads=True)
    share, shares = loss_by_parts(config, tokens, 2.0), []
    assert share is not None
    for part in PARTS:
        values = TokenLogprobs(*(tensor.detach()[part].requires_grad_() for tensor in current))
        shares.append(share(part, values))
        gradients = torch.autograd.grad(shares[-1], values, materialize_grads=True)
        assert torch.equal(gradients[0], by_logprob[part])
        assert torch.equal(gradients[1], by_entropy[part])
    torch.testing.assert_close(torch.stack(shares).sum(), objective.loss)


def test_only_a_separable_loss_is_taken_by_parts() -> None:
    tokens, _ = _tokens()
    assert loss_by_parts(AlgorithmConfig.model_validate({"loss": {"kind": "gspo"}}), tokens, 2.0) is None


CORRECTIONS = [
    {"kind": kind, "level": level}
    for kind in ("none", "tis", "icepop", "sequence_mask")
    for level in ("token", "sequence")
]


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda correction: " ".join(correction.values()))
@pytest.mark.parametrize("loss", LOSSES)
def test_without_old_logprobs_the_policy_is_its_own_old_policy(loss: str, correction: dict[str, str]) -> None:
    config = AlgorithmConfig.model_validate({**EVERYTHING, "loss": {"kind": loss}, "correction": correction})
    sampled, current = _tokens()
    known = replace(sampled, old_logprobs=current.logprobs.detach())
    unknown = replace(sampled, old_logprobs=None)
    results = [micro_batch_objective(config, tokens, current, 2.0) for tokens in (known, unknown)]
    gradients = [torch.autograd.grad(result.loss, current, allow_unused=True)[0] for result in results]
    assert torch.equal(*gradients)
    assert torch.equal(results[0].loss, results[1].loss)
    share = loss_by_parts(config, unknown, 2.0)
    mixes_tokens = correction["kind"] == "sequence_mask" or (
        correction["kind"] != "none" and correction["level"] == "sequence"
    )
    assert (share is None) == (loss == "gspo" or mixes_tokens)
    if share is not None:
        for part in PARTS:
            values = TokenLogprobs(*(tensor.detach()[part].requires_grad_() for tensor in current))
            (by_logprob,) = torch.autograd.grad(share(part, values), values.logprobs)
            assert torch.equal(by_logprob, gradients[0][part])


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda correction: " ".join(correction.values()))
@pytest.mark.parametrize("loss", LOSSES)
def test_objective_and_statistics_never_wait_for_the_device(loss: str, correction: dict[str, str]) -> None:
    # On the meta device every operation fails whose result, or its shape, depends on values.
    config = AlgorithmConfig.model_validate(
        {**EVERYTHING, "loss": {"kind": loss}, "correction": correction, "entropy_bonus": 0.01}
    )
    whole, values = _tokens()
    tokens = SampledTokens(**{field.name: getattr(whole, field.name).to("meta") for field in fields(whole)})
    current = TokenLogprobs(*(value.detach().to("meta").requires_grad_() for value in values))
    for sampled in (tokens, replace(tokens, old_logprobs=None)):
        objective = micro_batch_objective(config, sampled, current, 2.0)
        torch.autograd.grad(objective.loss, current)
    assert tokens.old_logprobs is not None
    old, gate, advantages = tokens.old_logprobs, objective.gate, objective.advantages
    totals = trust_region_totals(config.loss, current.logprobs, old, advantages, gate, current.entropy)
    ids = tokens.sequence_ids
    extremes = ratio_extremes(current.logprobs, old, advantages, gate, ids, ids, ids)
    assert totals.sums.is_meta
    assert extremes.is_meta
