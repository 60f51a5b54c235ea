"""Attention of packed sequences, forward and backward of one layer: by their bounds against a dense mask.

Times are of the CPU on one thread, which neighbours disturb less than the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from actors.bench.lines import BenchLine, compare
from actors.engines.deepspeed.attention import SequenceBounds, packed_attention, sequence_bounds

_REPEATS = 3
#: (what, sequences of so many tokens, heads, key-value heads, size of a head).
_CASES = (
    ("demo, 1024 tokens", (33,) * 31, 4, 2, 32),
    ("demo, 4096 tokens", (33,) * 124, 4, 2, 32),
    ("SmolLM2, 1024 tokens", (170,) * 6, 9, 3, 64),
    ("SmolLM2, 4096 tokens", (170,) * 24, 9, 3, 64),
    ("long-tailed, 8192 tokens", (4096, 1536, 896, 640, 384, 256, 192, 128, 64), 10, 5, 64),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayer:
    """Random inputs of one layer: query [1, heads, P, d], key and value [1, key-value heads, P, d], with gradient."""

    query: Tensor
    key: Tensor
    value: Tensor
    bounds: SequenceBounds
    lengths: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Heads per key-value head."""
        return self.query.shape[1] // self.key.shape[1]

    def by_bounds(self) -> Tensor:
        """[1, P, heads, d], as the learner computes it."""
        return packed_attention(self._module(), *self.inputs, None, sequence_bounds=self.bounds)[0]

    def masked(self, mask: Tensor) -> Tensor:
        """[1, P, heads, d] under `mask` of `dense_mask`, as transformers computes it."""
        output: Tensor = sdpa_attention_forward(self._module(), *self.inputs, mask)[0]
        return output

    def dense_mask(self) -> Tensor:
        """bool[1, 1, P, P], true where a token sees another."""
        device = self.query.device
        lengths = torch.tensor(self.lengths, device=device)
        sequence = torch.repeat_interleave(torch.arange(len(self.lengths), device=device), lengths)
        place = torch.arange(sequence.numel(), device=device)
        return ((sequence[:, None] == sequence) & (place[:, None] >= place))[None, None]

    def wide(self) -> PackedLayer:
        """The same inputs in float32."""
        query, key, value = (tensor.detach().float().requires_grad_() for tensor in self.inputs)
        return replace(self, query=query, key=key, value=value)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value

    def _module(self) -> nn.Module:
        module = nn.Module()
        module.num_key_value_groups = self.groups  # type: ignore[assignment]
        return module


def packed_layer(
    lengths: tuple[int, ...],
    heads: int,
    key_value_heads: int,
    size: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> PackedLayer:
    """A layer over sequences of `lengths`, heads of `size`."""
    bounds = sequence_bounds(np.concatenate([np.arange(length) for length in lengths]), device)
    query, key, value = (
        torch.randn(1, sum(lengths), count, size, device=device, dtype=dtype).transpose(1, 2).requires_grad_()
        for count in (heads, key_value_heads, key_value_heads)
    )
    return PackedLayer(query=query, key=key, value=value, bounds=bounds, lengths=lengths)


def run() -> Iterator[BenchLine]:
    """A line per case. Takes about two minutes."""
    torch.set_num_threads(1)
    for case in _CASES:
        yield _line(*case)


def _line(what: str, lengths: tuple[int, ...], heads: int, key_value_heads: int, size: int) -> BenchLine:
    tokens = sum(lengths)
    layer = packed_layer(lengths, heads, key_value_heads, size, torch.device("cpu"))
    mask = layer.dense_mask()
    by_bounds = _seconds(layer.by_bounds)
    masked = _seconds(lambda: layer.masked(mask))
    case = f"attention of one layer, {what} in {len(lengths)} sequences, by bounds against a dense mask"
    return compare("learner", case, tokens / by_bounds, "tokens/s", tokens / masked)


def _seconds(forward: Callable[[], Tensor]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        started_s = time.process_time()
        torch.autograd.backward([forward().sum()])
        seconds.append(time.process_time() - started_s)
    return min(seconds)
