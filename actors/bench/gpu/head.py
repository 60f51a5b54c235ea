"""The log-probability head at the learner's vocabulary: time against its matrix products and passes over memory.

The bound is measured on the device at hand: the products alone, and plain copies of as many bytes as the passes over
the logits read and write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from actors.bench.gpu.cost import cost_of
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace
from maspo_dist.algorithm.logprobs import CHUNK_ELEMENTS, linear_loss, token_logprobs

#: Bytes per logit that the passes of `maspo_dist.algorithm.logprobs` read and write with a 16-bit weight: nine steps in
#: forward; four more in a backward without entropy.
_FORWARD_BYTES, _UPDATE_BYTES = 56, 56 + 26
_LEAST_SHARE = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    hidden: Tensor
    weight: Tensor
    targets: Tensor

    def forward(self) -> None:
        """Log-probabilities without gradient, as for logπ_old."""
        with torch.no_grad():
            token_logprobs(self.hidden, self.weight, self.targets)

    def update(self) -> None:
        """A loss that is a sum over tokens, with its gradients, as in an update."""
        loss, _ = linear_loss(self.hidden, self.weight, self.targets, 1.0, lambda _, values: values.logprobs.sum())
        torch.autograd.grad(loss, (self.hidden, self.weight))


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts calls of torch's operators; on a GPU each launches about one kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def measure(place: Workplace) -> Measured:
    """Both ways of the head over the tokens of a micro-batch."""
    scale, device = place.setting.scale, place.device
    dtype = getattr(torch, place.setting.dtype)
    tokens, width, vocabulary = scale.micro_batch_tokens, scale.shape.hidden, scale.shape.vocabulary
    torch.manual_seed(0)
    inputs = _Inputs(
        hidden=torch.randn(tokens, width, device=device, dtype=dtype).requires_grad_(),
        weight=(0.02 * torch.randn(vocabulary, width, device=device)).to(dtype).requires_grad_(),
        targets=torch.randint(vocabulary, (tokens,), device=device),
    )
    rows = max(1, min(tokens, CHUNK_ELEMENTS[device.type] // vocabulary))
    product_s = _product_s(inputs, rows) * tokens / rows
    byte_s = _copy_s_per_byte(rows * vocabulary, device)
    logits = tokens * vocabulary
    figures: dict[str, Figure] = {"tokens": tokens, "vocabulary": vocabulary, "product_ms": 1e3 * product_s}
    limits = []
    ways = (("forward", inputs.forward, 1, _FORWARD_BYTES), ("update", inputs.update, 3, _UPDATE_BYTES))
    for name, work, products, passes in ways:
        cost = cost_of(work, device)
        with _Calls() as calls:
            work()
        bound_s = products * product_s + passes * logits * byte_s
        figures |= {
            f"{name}_ms": 1e3 * cost.seconds,
            f"{name}_bound_ms": 1e3 * bound_s,
            f"{name}_share_of_bound": bound_s / cost.seconds,
            f"{name}_share_of_products": products * product_s / cost.seconds,
            f"{name}_peak_gb": cost.peak_bytes / 1e9,
            f"{name}_torch_calls": calls.count,
        }
        if place.setting.judges_speed:
            limits.append(Limit(figure=f"{name}_share_of_bound", least=_LEAST_SHARE))
    return Measured(figures=figures, limits=tuple(limits))


def _product_s(inputs: _Inputs, rows: int) -> float:
    """Seconds of hidden · weightᵀ for one chunk."""
    hidden, weight = inputs.hidden.detach()[:rows], inputs.weight.detach()
    logits = torch.empty(rows, weight.shape[0], device=weight.device, dtype=weight.dtype)
    return cost_of(lambda: torch.mm(hidden, weight.t(), out=logits), weight.device).seconds


def _copy_s_per_byte(elements: int, device: torch.device) -> float:
    """Seconds to read or write one byte of a chunk of float32 logits."""
    source, target = (torch.zeros(elements, device=device) for _ in range(2))
    return cost_of(lambda: target.copy_(source), device).seconds / (2 * source.nbytes)
