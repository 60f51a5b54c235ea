"""Attention of packed sequences, forward and backward of one layer: by their bounds against a dense mask.

Times are of the CPU on one thread, which neighbours disturb less than the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from actors.bench.lines import BenchLine, compare
from actors.engines.deepspeed.attention import packed_attention, sequence_bounds

_REPEATS = 3
#: (what, sequences of so many tokens, heads, key-value heads, size of a head).
_CASES = (
    ("demo, 1024 tokens", (33,) * 31, 4, 2, 32),
    ("demo, 4096 tokens", (33,) * 124, 4, 2, 32),
    ("SmolLM2, 1024 tokens", (170,) * 6, 9, 3, 64),
    ("SmolLM2, 4096 tokens", (170,) * 24, 9, 3, 64),
    ("long-tailed, 8192 tokens", (4096, 1536, 896, 640, 384, 256, 192, 128, 64), 10, 5, 64),
)


def run() -> Iterator[BenchLine]:
    """A line per case. Takes about two minutes."""
    torch.set_num_threads(1)
    for case in _CASES:
        yield _line(*case)


def _line(what: str, lengths: tuple[int, ...], heads: int, key_value_heads: int, size: int) -> BenchLine:
    tokens = sum(lengths)
    bounds = sequence_bounds(np.concatenate([np.arange(length) for length in lengths]), torch.device("cpu"))
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(tokens)
    mask = ((sequence[:, None] == sequence) & (place[:, None] >= place))[None, None]
    query, key, value = (
        torch.randn(1, tokens, count, size).transpose(1, 2).requires_grad_()
        for count in (heads, key_value_heads, key_value_heads)
    )
    module = nn.Module()
    module.num_key_value_groups = heads // key_value_heads  # type: ignore[assignment]
    by_bounds = _seconds(lambda: packed_attention(module, query, key, value, None, sequence_bounds=bounds)[0])
    masked = _seconds(lambda: sdpa_attention_forward(module, query, key, value, mask)[0])
    case = f"attention of one layer, {what} in {len(lengths)} sequences, by bounds against a dense mask"
    return compare("learner", case, tokens / by_bounds, "tokens/s", tokens / masked)


def _seconds(forward: Callable[[], Tensor]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        started_s = time.process_time()
        torch.autograd.backward([forward().sum()])
        seconds.append(time.process_time() - started_s)
    return min(seconds)
