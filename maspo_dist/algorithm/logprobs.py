"""Log-probabilities and entropy of chosen tokens, without a [tokens × vocabulary] tensor.

For a hidden state h, the head's weight W and a temperature T:

    z = W·h / T     logp(v) = z_v − logsumexp(z)     H = −Σ_v p_v · log p_v

The vocabulary goes through in blocks, all tokens at once: the weight is read, and its gradient
written, one time. Of block b a token keeps its log-normalizer l_b and mean logit E_b, with

    logsumexp(z) = logsumexp_b(l_b)     H = Σ_b e^(l_b − logsumexp(z)) · (logsumexp(z) − E_b)

No block's logits are kept: backward computes them again and turns them into gradients in place,

    ∂/∂z_v = g_logp · (1[v = target] − p_v) − g_H · p_v · (log p_v + H)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Logits of a block; 2^24 float32 values are 64 MiB.
BLOCK_ELEMENTS = 1 << 24
#: However many tokens there are, a block is at least this wide.
_MIN_BLOCK_WIDTH = 64


class TokenLogprobs(NamedTuple):
    """Both f32[N]: log-probability of the target token and entropy (nats) of its distribution."""

    logprobs: Tensor
    entropy: Tensor


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    block_elements: int = BLOCK_ELEMENTS,
) -> TokenLogprobs:
    """Log-probability of `targets` and entropy under softmax(hidden · weightᵀ / temperature).

    hidden [N, H] and weight [V, H] of one floating dtype; targets i64[N] in [0, V). Logits are
    computed in that dtype, as the model's own head does, everything after in float32. Both results
    are differentiable in `hidden` and `weight`. Memory beyond the arguments and their gradients:
    about 2 · `block_elements` float32 values, for N up to a quarter million tokens.

    Raises ValueError where shapes or dtypes do not fit or temperature ≤ 0.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be [N, H] and [V, H]")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"targets must be i64[{hidden.shape[0]}], got {targets.dtype}{list(targets.shape)}")
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype} but weight is {weight.dtype}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    width = min(weight.shape[0], max(_MIN_BLOCK_WIDTH, block_elements // max(1, hidden.shape[0])))
    logprobs, entropy = _BlockwiseLogprobs.apply(hidden, weight, targets, temperature, width)  # type: ignore[no-untyped-call]
    return TokenLogprobs(logprobs, entropy)


class LogprobHead(nn.Module):
    """Stands in for a causal language model's `lm_head`: the same parameter under the same name.

    Keeps `weight` [V, H] (tied to the input embedding or not) as its own parameter, so that
    state-dict names stay those of the model and ZeRO-3 gathers it around this module's forward
    and backward.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float) -> TokenLogprobs:
        """See `token_logprobs`; an N of 0 is allowed and still takes part in backward."""
        return token_logprobs(hidden, self.weight, targets, temperature)


class _Blocks:
    """Iterates over the vocabulary; buffers are reused, since fresh pages cost more than the arithmetic."""

    def __init__(self, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, width: int) -> None:
        self._hidden, self._weight, self._targets = hidden, weight, targets
        self._temperature, self._width = temperature, width
        elements, device = hidden.shape[0] * width, weight.device
        self._logits = torch.empty(elements, dtype=torch.float32, device=device)
        self._scratch = torch.empty(elements, dtype=torch.float32, device=device)
        is_wide = weight.dtype == torch.float32
        self._narrow = self._logits if is_wide else torch.empty(elements, dtype=weight.dtype, device=device)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(block, its scaled logits f32[N, width], a scratch of that shape); valid until the next."""
        for start in range(0, self._weight.shape[0], self._width):
            part = self._weight[start : start + self._width]
            block = slice(start, start + part.shape[0])
            logits = self._view(self._logits, block)
            narrow = self._view(self._narrow, block)
            torch.mm(self._hidden, part.t(), out=narrow)
            if self._narrow is not self._logits:
                logits.copy_(narrow)
            if self._temperature != 1.0:
                logits.div_(self._temperature)
            yield block, logits, self._view(self._scratch, block)

    def targets_in(self, block: slice) -> tuple[Tensor, Tensor]:
        """(is the target in this block, its place there or any valid one), each [N]."""
        places = self._targets - block.start
        width = block.stop - block.start
        return (places >= 0) & (places < width), places.clamp(0, width - 1)

    def narrowed(self, gradient: Tensor, block: slice) -> Tensor:
        """`gradient` in the weight's dtype."""
        return gradient if self._narrow is self._logits else self._view(self._narrow, block).copy_(gradient)

    def _view(self, buffer: Tensor, block: slice) -> Tensor:
        shape = (self._hidden.shape[0], block.stop - block.start)
        return buffer[: shape[0] * shape[1]].view(shape)


class _BlockwiseLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, width: int
    ) -> tuple[Tensor, Tensor]:
        chosen = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        normalizers, gaps = [], []
        blocks = _Blocks(hidden, weight, targets, temperature, width)
        for block, logits, scratch in blocks:
            here, places = blocks.targets_in(block)
            chosen = torch.where(here, logits.gather(1, places[:, None]).squeeze(1), chosen)
            peak = logits.amax(1)
            # With s = z − max z and p = softmax(s):  l − max z = −log max p,  E − max z = Σ p·s.
            shifted = logits.sub_(peak[:, None])
            probabilities = torch.softmax(shifted, 1, out=scratch)
            above_peak = -probabilities.amax(1).log()
            normalizers.append(peak + above_peak)
            gaps.append(above_peak - probabilities.mul_(shifted).sum(1))
        by_block = torch.stack(normalizers)
        log_normalizers = by_block.logsumexp(0)
        behind = log_normalizers - by_block
        entropy = ((-behind).exp() * (behind + torch.stack(gaps))).sum(0)
        ctx.save_for_backward(hidden, weight, targets, entropy, log_normalizers)
        ctx.temperature, ctx.width = temperature, width
        ctx.set_materialize_grads(False)
        return chosen - log_normalizers, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, targets, entropy, log_normalizers = ctx.saved_tensors
        scale = torch.zeros_like(entropy) if grad_logprobs is None else grad_logprobs / ctx.temperature
        is_wide = weight.dtype == torch.float32
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        grad_weight = torch.empty_like(weight)
        blocks = _Blocks(hidden, weight, targets, ctx.temperature, ctx.width)
        for block, logits, scratch in blocks:
            log_p = logits.sub_(log_normalizers[:, None])
            gradient = torch.exp(log_p, out=scratch)
            if grad_entropy is None:
                gradient.mul_(-scale[:, None])
            else:
                entropy_scale = (grad_entropy / ctx.temperature)[:, None]
                gradient.mul_(log_p.add_(entropy[:, None]).mul_(entropy_scale).add_(scale[:, None]).neg_())
            here, places = blocks.targets_in(block)
            gradient.scatter_add_(1, places[:, None], (scale * here)[:, None])
            narrow = blocks.narrowed(gradient, block)
            torch.mm(narrow.t(), hidden, out=grad_weight[block])
            if is_wide:
                grad_hidden.addmm_(narrow, weight[block])
            else:
                grad_hidden.add_(narrow @ weight[block])
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None
