"""Chunked log-probabilities against the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maspo_dist.algorithm.logprobs import LogprobHead, token_logprobs

TOKENS, WIDTH, VOCABULARY = 37, 8, 230


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(
        (hidden @ weight.t()).to(torch.promote_types(hidden.dtype, torch.float32)) / temperature, 1
    )
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(1)


def tensors(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = (scale * torch.randn(TOKENS, WIDTH, generator=generator)).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)


@pytest.mark.parametrize("width", [1, 64, 100, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("uses_logprobs", "uses_entropy"), [(True, False), (False, True), (True, True)])
def test_values_and_gradients_are_those_of_the_plain_formula(
    width: int, temperature: float, uses_logprobs: bool, uses_entropy: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    cotangents = torch.randn(2, TOKENS, generator=generator)
    results = []
    for chunked in (True, False):
        hidden, weight, targets = tensors()
        if chunked:
            logprobs, entropy = token_logprobs(hidden, weight, targets, temperature, block_elements=width * TOKENS)
        else:
            logprobs, entropy = plain(hidden, weight, targets, temperature)
        loss = torch.zeros(())
        if uses_logprobs:
            loss = loss + (cotangents[0] * logprobs).sum()
        if uses_entropy:
            loss = loss + (cotangents[1] * entropy).sum()
        loss.backward()
        results.append((logprobs.detach(), entropy.detach(), hidden.grad, weight.grad))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=2e-5)


def test_logits_far_apart_stay_finite() -> None:
    hidden, weight, targets = tensors(scale=1e4)
    logprobs, entropy = token_logprobs(hidden, weight, targets, block_elements=100)
    (logprobs.sum() + entropy.sum()).backward()
    assert torch.isfinite(logprobs).all()
    assert (entropy >= 0).all()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_bfloat16_comes_back_as_float32_with_bfloat16_gradients() -> None:
    hidden, weight, targets = tensors(torch.bfloat16)
    logprobs, entropy = token_logprobs(hidden, weight, targets, block_elements=10 * TOKENS)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16
    exact, _ = plain(hidden.detach(), weight.detach(), targets, 1.0)
    torch.testing.assert_close(logprobs, exact, rtol=0, atol=1e-5)


def test_no_tokens_give_a_zero_gradient() -> None:
    hidden, weight, _ = tensors()
    nothing = torch.zeros(0, dtype=torch.int64)
    logprobs, entropy = token_logprobs(hidden[:0], weight, nothing)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_the_head_keeps_a_tied_parameter_tied() -> None:
    embedding = nn.Embedding(VOCABULARY, WIDTH)
    model = nn.ModuleDict({"embed": embedding, "lm_head": LogprobHead(embedding.weight)})
    assert [name for name, _ in model.named_parameters()] == ["embed.weight"]
    assert "lm_head.weight" in model.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, w, t: (h[0], w, t, 1.0), "must be"),
        (lambda h, w, t: (h, w, t[:-1], 1.0), "targets"),
        (lambda h, w, t: (h, w, t.int(), 1.0), "targets"),
        (lambda h, w, t: (h, w.double(), t, 1.0), "but weight is"),
        (lambda h, w, t: (h, w, t, 0.0), "temperature"),
    ],
)
def test_what_does_not_fit_is_refused(change: object, message: str) -> None:
    arguments = change(*tensors())  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        token_logprobs(*arguments)
