"""Log-probabilities and entropy of chosen tokens, without a [tokens × vocabulary] tensor.

For a hidden state h, the head's weight W and a temperature T:

    z = W·h / T     logp(v) = z_v − logsumexp(z)     H = −Σ_v p_v · log p_v
    ∂/∂z_v = g_logp · (1[v = target] − p_v) − g_H · p_v · (log p_v + H)

Tokens are computed in chunks, each over the whole vocabulary. One buffer holds the logits of a chunk, then its
log-probabilities, then its gradient; nothing of a chunk is kept.

`token_logprobs` computes the logits again in backward: a fourth matrix product beside the three that every way needs.
`linear_loss` needs three: it computes the loss chunk by chunk in forward and keeps the gradients, so backward only
scales them. The loss must be a sum over tokens for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Logits of a chunk by device: 256 MiB of float32 on the CPU; 1 GiB on a GPU, where each call costs more.
CHUNK_ELEMENTS = {"cpu": 1 << 26, "cuda": 1 << 28}
#: Logits in a step of elementwise work on the CPU, few enough to stay in a cache. On a GPU a step is a chunk.
_TILE_ELEMENTS = 1 << 20
#: Rows of a 16-bit weight's gradient that are added in float32 at a time.
_WEIGHT_ROWS = 1 << 14


class TokenLogprobs(NamedTuple):
    """Both f32[N]: log-probability of the target token and entropy (nats) of its distribution."""

    logprobs: Tensor
    entropy: Tensor


#: (which tokens, their values [n] with gradient) → their share of the loss, a scalar with gradient.
LossShare = Callable[[slice, TokenLogprobs], Tensor]


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    chunk_elements: int | None = None,
) -> TokenLogprobs:
    """Log-probability of `targets` and entropy under softmax(hidden · weightᵀ / temperature).

    hidden [N, H] and weight [V, H] of one floating dtype; targets i64[N] in [0, V). Logits are computed in that dtype,
    as by the model's own head, the rest in float32. Both results are differentiable in `hidden` and `weight`.
    Memory beyond the arguments and their gradients: max(`chunk_elements`, V) float32 values, twice that on a GPU; for a
    16-bit weight half as much again, and its gradient in float32. None: CHUNK_ELEMENTS of the device.
    Raises ValueError if shapes or dtypes do not fit, or temperature ≤ 0.
    """
    rows = _chunk_rows(hidden, weight, targets, temperature, chunk_elements)
    logprobs, entropy = _ChunkedLogprobs.apply(hidden, weight, targets, temperature, rows)  # type: ignore[no-untyped-call]
    return TokenLogprobs(logprobs, entropy)


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    share: LossShare,
    *,
    chunk_elements: int | None = None,
) -> tuple[Tensor, TokenLogprobs]:
    """(Σ of `share` over chunks, values of all tokens without gradient); arguments and errors as in `token_logprobs`.

    The loss, an f32 scalar, is differentiable in `hidden` and `weight`, once: a second backward raises RuntimeError.
    """
    rows = _chunk_rows(hidden, weight, targets, temperature, chunk_elements)
    loss, logprobs, entropy = _LinearLoss.apply(hidden, weight, targets, temperature, rows, share)  # type: ignore[no-untyped-call]
    return loss, TokenLogprobs(logprobs, entropy)


def _chunk_rows(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk_elements: int | None) -> int:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be [N, H] and [V, H]")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"targets must be i64[{hidden.shape[0]}], got {targets.dtype}{list(targets.shape)}")
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype} but weight is {weight.dtype}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    elements = CHUNK_ELEMENTS[weight.device.type] if chunk_elements is None else chunk_elements
    return max(1, min(hidden.shape[0], elements // weight.shape[0]))


class LogprobHead(nn.Module):
    """Replaces a causal language model's `lm_head`, with the same parameter under the same name.

    `weight` [V, H], tied to the input embedding or not, is this module's own parameter, so ZeRO-3 gathers it around
    forward and backward.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, hidden: Tensor, targets: Tensor, temperature: float, share: LossShare | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(logprobs, entropy, None) of `token_logprobs`, or with `share` (logprobs, entropy, loss) of `linear_loss`.

        An N of 0 is allowed and still takes part in backward.
        """
        if share is None:
            return *token_logprobs(hidden, self.weight, targets, temperature), None
        loss, values = linear_loss(hidden, self.weight, targets, temperature, share)
        return *values, loss


class _Chunks:
    """Computes a chunk of tokens at a time, in the same buffers: fresh pages cost more than the arithmetic."""

    def __init__(self, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int) -> None:
        self._hidden, self._weight, self._targets = hidden, weight, targets
        self._temperature = temperature
        self._rows, self._tile_rows = rows, rows if weight.is_cuda else max(1, _TILE_ELEMENTS // weight.shape[0])
        device, vocabulary = weight.device, weight.shape[0]
        self._wide = torch.empty(rows, vocabulary, dtype=torch.float32, device=device)
        is_wide = weight.dtype == torch.float32
        self._narrow = self._wide if is_wide else torch.empty(rows, vocabulary, dtype=weight.dtype, device=device)
        self._scratch = torch.empty(min(rows, self._tile_rows), vocabulary, dtype=torch.float32, device=device)

    def __iter__(self) -> Iterator[slice]:
        """Tokens of each chunk."""
        tokens = self._hidden.shape[0]
        for start in range(0, tokens, self._rows):
            yield slice(start, min(tokens, start + self._rows))

    def evaluate(self, part: slice) -> TokenLogprobs:
        """Fills the buffer with the log-probabilities of a chunk; returns the values of its tokens, [n]."""
        rows = part.stop - part.start
        logits, narrow = self._wide[:rows], self._narrow[:rows]
        torch.mm(self._hidden[part], self._weight.t(), out=narrow)
        entropy = torch.empty(rows, dtype=torch.float32, device=logits.device)
        for tile, scratch in self._tiles(rows):
            z = logits[tile]
            if self._narrow is not self._wide:
                z.copy_(narrow[tile])
            if self._temperature != 1.0:
                z.div_(self._temperature)
            z.sub_(z.amax(1, keepdim=True))
            unnormalized = torch.exp(z, out=scratch)
            total = unnormalized.sum(1, keepdim=True)
            mean = unnormalized.mul_(z).sum(1, keepdim=True) / total
            normalizer = total.log()
            entropy[tile] = (normalizer - mean).squeeze(1)
            z.sub_(normalizer)
        return TokenLogprobs(logits.gather(1, self._targets[part, None]).squeeze(1), entropy)

    def gradient(self, part: slice, entropy: Tensor, by_logprob: Tensor, by_entropy: Tensor | None) -> Tensor:
        """Turns the log-probabilities of `evaluate` into ∂/∂(hidden · weightᵀ), [n, V] in the weight's dtype."""
        rows = part.stop - part.start
        buffer, narrow = self._wide[:rows], self._narrow[:rows]
        scale = (by_logprob / self._temperature)[:, None]
        entropy_scale = None if by_entropy is None else (by_entropy / self._temperature)[:, None]
        for tile, scratch in self._tiles(rows):
            log_p = buffer[tile]
            if entropy_scale is None:
                gradient = log_p.exp_().mul_(-scale[tile])
            else:
                p = torch.exp(log_p, out=scratch)
                rise = log_p.add_(entropy[tile, None]).mul_(entropy_scale[tile]).add_(scale[tile])
                gradient = rise.mul_(p).neg_()
            gradient.scatter_add_(1, self._targets[part][tile, None], scale[tile])
            if self._narrow is not self._wide:
                narrow[tile] = gradient
        return narrow

    def _tiles(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, rows, self._tile_rows):
            tile = slice(start, min(rows, start + self._tile_rows))
            yield tile, self._scratch[: tile.stop - tile.start]


class _Gradients:
    """Gradients by hidden and weight, added up over chunks: in float32 if several chunks share a 16-bit weight.

    A frozen weight has none, which saves a matrix product and memory of the weight's size.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, rows: int, *, is_frozen: bool) -> None:
        self._hidden, self._weight = hidden, weight
        self._is_exact = weight.dtype == torch.float32 or hidden.shape[0] <= rows
        self._by_hidden = torch.empty_like(hidden)
        dtype = weight.dtype if self._is_exact else torch.float32
        self._by_weight = None if is_frozen else torch.zeros(weight.shape, dtype=dtype, device=weight.device)

    def add(self, part: slice, by_logits: Tensor) -> None:
        """`by_logits` [n, V] of the tokens `part`, in the weight's dtype."""
        torch.mm(by_logits, self._weight, out=self._by_hidden[part])
        if self._by_weight is None:
            return
        if self._is_exact:
            self._by_weight.addmm_(by_logits.t(), self._hidden[part])
            return
        for start in range(0, self._weight.shape[0], _WEIGHT_ROWS):
            rows = slice(start, start + _WEIGHT_ROWS)
            self._by_weight[rows] += by_logits[:, rows].t() @ self._hidden[part]

    def finish(self) -> tuple[Tensor, Tensor | None]:
        """In the dtypes of hidden and weight."""
        return self._by_hidden, None if self._by_weight is None else self._by_weight.to(self._weight.dtype)


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.set_materialize_grads(False)
        logprobs, entropy = (torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device) for _ in range(2))
        chunks = _Chunks(hidden, weight, targets, temperature, rows)
        for part in chunks:
            logprobs[part], entropy[part] = chunks.evaluate(part)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_logprob: Tensor | None, by_entropy: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        if by_logprob is None:
            by_logprob = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        chunks = _Chunks(hidden, weight, targets, ctx.temperature, ctx.rows)
        gradients = _Gradients(hidden, weight, ctx.rows, is_frozen=not ctx.needs_input_grad[1])
        for part in chunks:
            values = chunks.evaluate(part)
            entropy_part = None if by_entropy is None else by_entropy[part]
            gradients.add(part, chunks.gradient(part, values.entropy, by_logprob[part], entropy_part))
        return *gradients.finish(), None, None, None


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int, share: LossShare
    ) -> tuple[Tensor, Tensor, Tensor]:
        logprobs, entropy = (torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device) for _ in range(2))
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        chunks = _Chunks(hidden, weight, targets, temperature, rows)
        gradients = _Gradients(hidden, weight, rows, is_frozen=not ctx.needs_input_grad[1])
        for part in chunks:
            values = chunks.evaluate(part)
            logprobs[part], entropy[part] = values
            with torch.enable_grad():
                loss = share(part, TokenLogprobs(*(value.requires_grad_() for value in values)))
                by_logprob, by_entropy = torch.autograd.grad(loss, values, allow_unused=True)
            total += loss.detach()
            gradients.add(part, chunks.gradient(part, entropy[part], by_logprob, by_entropy))
        ctx.kept = gradients.finish()
        ctx.mark_non_differentiable(logprobs, entropy)
        ctx.set_materialize_grads(False)
        return total, logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor, *_: None) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        if ctx.kept is None:
            raise RuntimeError("the gradients of linear_loss are gone: run forward again before a second backward")
        # Scaled in place to save a copy of the weight's size, and given away: a caller may add to them.
        (by_hidden, by_weight), ctx.kept = ctx.kept, None
        by_weight = None if by_weight is None else by_weight.mul_(by_loss)
        return by_hidden.mul_(by_loss), by_weight, None, None, None, None
