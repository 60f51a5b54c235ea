"""Chunked log-probabilities against the plain formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from maspo_dist.algorithm import logprobs as logprobs_module
from maspo_dist.algorithm.logprobs import LogprobHead, TokenLogprobs, _Chunks, linear_loss, token_logprobs

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


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Appends a 1 for every product of hidden states and weight."""
    products: list[int] = []
    evaluate = _Chunks.evaluate

    def counted(chunks: _Chunks, part: slice) -> TokenLogprobs:
        products.append(1)
        return evaluate(chunks, part)

    monkeypatch.setattr(_Chunks, "evaluate", counted)
    return products


@pytest.mark.parametrize("rows", [0, 1, 16, TOKENS])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("uses_logprobs", "uses_entropy"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("is_fused", [False, True])
def test_values_and_gradients_are_those_of_the_plain_formula(
    rows: int,
    temperature: float,
    uses_logprobs: bool,
    uses_entropy: bool,
    is_fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logprobs_module, "_TILE_ELEMENTS", 5 * VOCABULARY)
    products = count_products(monkeypatch)
    generator = torch.Generator().manual_seed(1)
    by_logprob, by_entropy = torch.randn(2, TOKENS, generator=generator)
    by_logprob *= uses_logprobs

    def share(part: slice, values: TokenLogprobs) -> Tensor:
        loss = (by_logprob[part] * values.logprobs).sum()
        return loss + (by_entropy[part] * values.entropy).sum() if uses_entropy else loss

    results = []
    for chunked in (True, False):
        hidden, weight, targets = tensors()
        arguments = hidden, weight, targets, temperature
        if chunked and is_fused:
            loss, (logprobs, entropy) = linear_loss(*arguments, share, chunk_elements=rows * VOCABULARY)
            assert not logprobs.requires_grad and not entropy.requires_grad
        else:
            whole = token_logprobs(*arguments, chunk_elements=rows * VOCABULARY) if chunked else plain(*arguments)
            logprobs, entropy = whole
            loss = share(slice(None), TokenLogprobs(logprobs, entropy))
        # As a loss is scaled between its forward and its backward.
        (3 * loss).backward()
        results.append((loss.detach(), logprobs.detach(), entropy.detach(), hidden.grad, weight.grad))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=2e-5)
    chunks = math.ceil(TOKENS / max(1, rows))
    assert len(products) == (chunks if is_fused else 2 * chunks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_a_fused_loss_are_those_of_two_passes_to_the_last_bit(dtype: torch.dtype) -> None:
    results = []
    for is_fused in (True, False):
        hidden, weight, targets = tensors(dtype)
        options = {"chunk_elements": 10 * VOCABULARY}
        if is_fused:
            loss, _ = linear_loss(
                hidden, weight, targets, 0.6, lambda _, values: values.logprobs.exp().sum(), **options
            )
        else:
            loss = token_logprobs(hidden, weight, targets, 0.6, **options).logprobs.exp().sum()
        (2 * loss).backward()
        results.append((hidden.grad, weight.grad))
    for ours, wanted in zip(*results, strict=True):
        assert ours is not None and wanted is not None and torch.equal(ours, wanted)


@pytest.mark.parametrize(("is_fused", "products"), [(True, 2), (False, 3)])
def test_a_frozen_head_costs_no_product_for_its_gradient(is_fused: bool, products: int) -> None:
    results = []
    for is_frozen in (False, True):
        hidden, weight, targets = tensors()
        weight.requires_grad_(not is_frozen)
        with Products() as made:
            if is_fused:
                loss, _ = linear_loss(hidden, weight, targets, 1.0, lambda _, values: values.logprobs.sum())
            else:
                loss = token_logprobs(hidden, weight, targets).logprobs.sum()
            loss.backward()
        results.append((hidden.grad, made.count))
        assert (weight.grad is None) == is_frozen
    (wanted, with_gradient), (ours, frozen) = results
    assert ours is not None and wanted is not None and torch.equal(ours, wanted)
    assert (with_gradient, frozen) == (products + 1, products)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        return func(*args, **(kwargs or {}))


def test_gradients_taken_in_forward_are_handed_out_once() -> None:
    hidden, weight, targets = tensors()
    loss, _ = linear_loss(hidden, weight, targets, 1.0, lambda _, values: values.logprobs.sum())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run forward again"):
        loss.backward()


def test_logits_far_apart_stay_finite() -> None:
    hidden, weight, targets = tensors(scale=1e4)
    logprobs, entropy = token_logprobs(hidden, weight, targets, chunk_elements=4 * VOCABULARY)
    (logprobs.sum() + entropy.sum()).backward()
    assert torch.isfinite(logprobs).all()
    assert (entropy >= 0).all()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("rows", [10, TOKENS])
def test_bfloat16_comes_back_as_float32_with_bfloat16_gradients(rows: int) -> None:
    hidden, weight, targets = tensors(torch.bfloat16)
    logprobs, entropy = token_logprobs(hidden, weight, targets, chunk_elements=rows * VOCABULARY)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16
    exact, _ = plain(hidden.detach(), weight.detach(), targets, 1.0)
    torch.testing.assert_close(logprobs, exact, rtol=0, atol=1e-5)
    wide_hidden, wide_weight = (one.detach().float().requires_grad_() for one in (hidden, weight))
    wide = plain(wide_hidden, wide_weight, targets, 1.0)
    (wide[0].sum() + wide[1].sum()).backward()
    assert wide_weight.grad is not None
    error = (weight.grad.float() - wide_weight.grad).norm() / wide_weight.grad.norm()
    # Logits of 8 and more are rounded to 2^-6.
    assert error < 0.02


def test_no_tokens_give_a_zero_gradient() -> None:
    hidden, weight, _ = tensors()
    nothing = torch.zeros(0, dtype=torch.int64)
    logprobs, entropy = token_logprobs(hidden[:0], weight, nothing)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()
    weight.grad = None
    loss, _ = linear_loss(hidden[:0], weight, nothing, 1.0, lambda _, values: values.logprobs.sum())
    loss.backward()
    assert loss == 0 and weight.grad is not None and not weight.grad.any()


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
def test_tensors_whose_shapes_do_not_match_are_refused(change: object, message: str) -> None:
    arguments = change(*tensors())  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        token_logprobs(*arguments)
