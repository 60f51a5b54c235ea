"""The token sequences whose logprobs prove a publish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maspo_dist.types import IntArray


def probe_sequences(prompts: Sequence[Sequence[int]], count: int, tokens: int) -> list[IntArray]:
    """`count` sequences of `tokens` ids, cut from training prompts laid end to end."""
    ids = [token for prompt in prompts for token in prompt]
    return [
        np.asarray(ids[start : start + tokens], np.int32)
        for start in range(0, min(len(ids) - 1, count * tokens), tokens)
    ]
