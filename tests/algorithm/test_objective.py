"""The parts of the objective, put together for one micro-batch."""

from dataclasses import replace

import pytest
import torch

from maspo_dist.algorithm import (
    TokenBatch,
    correction_weights,
    kl_penalty,
    loss_by_parts,
    micro_batch_objective,
    token_loss,
)
from maspo_dist.algorithm.logprobs import TokenLogprobs
from maspo_dist.config import AlgorithmConfig

IDS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])


def _tokens() -> TokenBatch:
    generator = torch.Generator().manual_seed(5)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(8, dtype=torch.float64, generator=generator)

    old = -2 + noise(0.3)
    return TokenBatch(
        logprobs=(old + noise(0.5)).requires_grad_(),
        entropy=noise(1.0).abs().requires_grad_(),
        old_logprobs=old,
        advantages=torch.where(IDS == 0, 1.0, -1.0).double(),
        sequence_ids=IDS,
        behavior_logprobs=old + noise(0.5),
        ref_logprobs=old + noise(0.5),
    )


def test_the_plain_objective_is_the_mean_of_the_token_losses() -> None:
    tokens = _tokens()
    config = AlgorithmConfig()
    result = micro_batch_objective(config, tokens, 8.0)
    loss = token_loss(config.loss, tokens.logprobs, tokens.old_logprobs, tokens.advantages, IDS)
    torch.testing.assert_close(result.loss, loss.values.mean())
    torch.testing.assert_close(result.policy_loss, loss.values.mean().detach())
    assert result.kl_loss.item() == 0
    assert torch.equal(result.gate, loss.gate)
    assert torch.equal(result.advantages, tokens.advantages)


def test_every_term_enters_with_its_coefficient() -> None:
    tokens = _tokens()
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
    result = micro_batch_objective(config, tokens, 16.0)
    shaped = tokens.advantages + torch.minimum(0.4 * tokens.entropy.detach(), tokens.advantages.abs() / 2)
    policy = token_loss(config.loss, tokens.logprobs, tokens.old_logprobs, shaped, IDS).values
    weights = correction_weights(config.correction, tokens.old_logprobs, tokens.behavior_logprobs, IDS).weights
    kl = 0.1 * kl_penalty(tokens.logprobs, tokens.ref_logprobs, "k2")
    want = (weights * policy + kl - 0.01 * tokens.entropy).sum() / 16
    torch.testing.assert_close(result.loss, want)
    torch.testing.assert_close(result.kl_loss, kl.sum().detach() / 16)
    torch.testing.assert_close(result.advantages, shaped)
    got = torch.autograd.grad(result.loss, (tokens.logprobs, tokens.entropy))
    torch.testing.assert_close(got, torch.autograd.grad(want, (tokens.logprobs, tokens.entropy)))


def test_kl_in_the_reward_stays_out_of_the_loss() -> None:
    tokens = _tokens()
    config = AlgorithmConfig.model_validate({"kl": {"coefficient": 0.1, "place": "reward"}})
    result = micro_batch_objective(config, tokens, 8.0)
    torch.testing.assert_close(result.loss, micro_batch_objective(AlgorithmConfig(), tokens, 8.0).loss)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({"correction": "icepop"}, "behavior_logprobs"), ({"kl": {"coefficient": 0.1}}, "ref_logprobs")],
)
def test_a_missing_tensor_is_named(settings: dict[str, object], missing: str) -> None:
    whole = _tokens()
    tokens = TokenBatch(
        logprobs=whole.logprobs,
        entropy=whole.entropy,
        old_logprobs=whole.old_logprobs,
        advantages=whole.advantages,
        sequence_ids=IDS,
    )
    with pytest.raises(ValueError, match=missing):
        micro_batch_objective(AlgorithmConfig.model_validate(settings), tokens, 8.0)


def test_micro_batches_add_up_to_the_whole() -> None:
    tokens = _tokens()
    config = AlgorithmConfig.model_validate({"aggregate": "seq-mean-token-mean", "correction": "tis"})
    whole = micro_batch_objective(config, tokens, 2.0).loss
    parts = []
    for response in (0, 1):
        here = response == IDS
        assert tokens.behavior_logprobs is not None
        part = TokenBatch(
            logprobs=tokens.logprobs[here],
            entropy=tokens.entropy[here],
            old_logprobs=tokens.old_logprobs[here],
            advantages=tokens.advantages[here],
            sequence_ids=IDS[here],
            behavior_logprobs=tokens.behavior_logprobs[here],
        )
        parts.append(micro_batch_objective(config, part, 2.0).loss)
    torch.testing.assert_close(sum(parts), whole)


LOSSES = ("maspo", "clip", "sapo", "gspo", "cispo", "dac", "bapo")
EVERYTHING = {
    "correction": {"kind": "icepop", "level": "sequence", "lower": 0.0, "upper": 50.0},
    "kl": {"coefficient": 0.1},
    "advantage": {"entropy": {}},
    "aggregate": "seq-mean-token-mean",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_separable_loss_is_one_whose_tokens_do_not_see_each_other(loss: str) -> None:
    config = AlgorithmConfig.model_validate({**EVERYTHING, "loss": {"kind": loss}, "entropy_bonus": 0.01})
    tokens = _tokens()
    others = torch.arange(8) != 4
    moved = replace(
        tokens,
        logprobs=(tokens.logprobs.detach() - 0.01 * others).requires_grad_(),
        entropy=(tokens.entropy.detach() + 0.5 * others).requires_grad_(),
    )
    gradients = [
        torch.autograd.grad(micro_batch_objective(config, batch, 2.0).loss, (batch.logprobs, batch.entropy))
        for batch in (tokens, moved)
    ]
    unmoved = all(torch.equal(one[4], other[4]) for one, other in zip(*gradients, strict=True))
    assert unmoved == config.loss.is_separable


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "gspo"])
@pytest.mark.parametrize("entropy_bonus", [0.0, 0.01])
def test_parts_of_the_loss_and_their_gradients_are_those_of_the_whole(loss: str, entropy_bonus: float) -> None:
    settings = {"kind": loss} | ({"lower_start": 0.9, "upper_start": 1.5} if loss == "bapo" else {})
    config = AlgorithmConfig.model_validate({**EVERYTHING, "loss": settings, "entropy_bonus": entropy_bonus})
    tokens = _tokens()
    objective = micro_batch_objective(config, tokens, 2.0)
    by_logprob, by_entropy = torch.autograd.grad(
        objective.loss, (tokens.logprobs, tokens.entropy), materialize_grads=True
    )
    share, shares = loss_by_parts(config, tokens, 2.0), []
    for part in (slice(0, 2), slice(2, 7), slice(7, 8)):
        values = TokenLogprobs(
            *(tensor.detach()[part].requires_grad_() for tensor in (tokens.logprobs, tokens.entropy))
        )
        shares.append(share(part, values))
        gradients = torch.autograd.grad(shares[-1], values, materialize_grads=True)
        assert torch.equal(gradients[0], by_logprob[part])
        assert torch.equal(gradients[1], by_entropy[part])
    torch.testing.assert_close(torch.stack(shares).sum(), objective.loss)
