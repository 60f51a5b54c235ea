"""Log-probabilities and entropy of chosen tokens, without a [tokens × vocabulary] tensor in float32.

For a hidden state h, the head's weight W and a temperature T:

    z = W·h / T     logp(v) = z_v − logsumexp(z)     H = −Σ_v p_v · log p_v

Tokens go through in chunks. Nothing of a chunk's logits is kept: backward computes them again
and turns them into gradients in place,

    ∂/∂z_v = g_logp · (1[v = target] − p_v) − g_H · p_v · (log p_v + H)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Logits held at a time; 2^24 float32 values are 64 MiB.
CHUNK_ELEMENTS = 1 << 24


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
    chunk_elements: int = CHUNK_ELEMENTS,
) -> TokenLogprobs:
    """Log-probability of `targets` and entropy under softmax(hidden · weightᵀ / temperature).

    hidden [N, H] and weight [V, H] of one floating dtype; targets i64[N] in [0, V). Logits are
    computed in that dtype, as the model's own head does, everything after in float32. Both results
    are differentiable in `hidden` and `weight`. Memory beyond the arguments and their gradients:
    about 2 · `chunk_elements` float32 values, whatever N.

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
    rows = max(1, chunk_elements // weight.shape[0])
    logprobs, entropy = _ChunkedLogprobs.apply(hidden, weight, targets, temperature, rows)  # type: ignore[no-untyped-call]
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


class _ChunkBuffers:
    """Logits and a scratch of the same shape, reused for every chunk: fresh pages cost more than the arithmetic."""

    def __init__(self, rows: int, weight: Tensor, temperature: float) -> None:
        shape, device = (rows, weight.shape[0]), weight.device
        self._weight = weight
        self._temperature = temperature
        self._logits = torch.empty(shape, dtype=torch.float32, device=device)
        self._scratch = torch.empty(shape, dtype=torch.float32, device=device)
        is_wide = weight.dtype == torch.float32
        self._narrow = self._logits if is_wide else torch.empty(shape, dtype=weight.dtype, device=device)

    def scaled_logits(self, hidden: Tensor) -> Tensor:
        """hidden · weightᵀ / temperature, f32[rows, V]; valid until the next call."""
        rows = hidden.shape[0]
        logits = self._logits[:rows]
        torch.mm(hidden, self._weight.t(), out=self._narrow[:rows])
        if self._narrow is not self._logits:
            logits.copy_(self._narrow[:rows])
        return logits if self._temperature == 1.0 else logits.div_(self._temperature)

    def scratch(self, rows: int) -> Tensor:
        return self._scratch[:rows]

    def narrow(self, gradient: Tensor) -> Tensor:
        """`gradient` in the weight's dtype."""
        if self._narrow is self._logits:
            return gradient
        return self._narrow[: gradient.shape[0]].copy_(gradient)


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        tokens = hidden.shape[0]
        logprobs = torch.empty(tokens, dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        log_normalizers = torch.empty_like(logprobs)
        buffers = _ChunkBuffers(min(rows, tokens), weight, temperature)
        for start in range(0, tokens, rows):
            chunk = slice(start, start + rows)
            logits = buffers.scaled_logits(hidden[chunk])
            peak = logits.amax(1)
            # With s = z − max z:  p = softmax(s), H = −log p(argmax) − Σ p·s. Small numbers keep their digits.
            shifted = logits.sub_(peak[:, None])
            probabilities = torch.softmax(shifted, 1, out=buffers.scratch(shifted.shape[0]))
            log_total = -probabilities.amax(1).log()
            chosen = shifted.gather(1, targets[chunk, None]).squeeze(1)
            logprobs[chunk] = chosen - log_total
            entropy[chunk] = log_total - probabilities.mul_(shifted).sum(1)
            log_normalizers[chunk] = log_total + peak
        ctx.save_for_backward(hidden, weight, targets, entropy, log_normalizers)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, targets, entropy, log_normalizers = ctx.saved_tensors
        tokens, rows = hidden.shape[0], ctx.rows
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(entropy)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        buffers = _ChunkBuffers(min(rows, tokens), weight, ctx.temperature)
        for start in range(0, tokens, rows):
            chunk = slice(start, start + rows)
            logits = buffers.scaled_logits(hidden[chunk])
            scale = grad_logprobs[chunk, None] / ctx.temperature
            probabilities = torch.softmax(logits, 1, out=buffers.scratch(logits.shape[0]))
            if grad_entropy is None:
                gradient = probabilities.mul_(-scale)
            else:
                log_p_plus_entropy = logits.sub_((log_normalizers[chunk] - entropy[chunk])[:, None])
                factor = log_p_plus_entropy.mul_(grad_entropy[chunk, None] / ctx.temperature).add_(scale)
                gradient = probabilities.mul_(factor.neg_())
            gradient.scatter_add_(1, targets[chunk, None], scale)
            narrow = buffers.narrow(gradient)
            torch.mm(narrow, weight, out=grad_hidden[chunk])
            if narrow.dtype == torch.float32:
                grad_weight.addmm_(narrow.t(), hidden[chunk])
            else:
                grad_weight.add_(narrow.t() @ hidden[chunk])
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None
