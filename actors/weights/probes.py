"""The token sequences whose logprobs prove a publish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.interfaces import ProbeSequence


def probe_sequences(prompts: Sequence[Sequence[int]], count: int, tokens: int) -> list[ProbeSequence]:
    """`count` sequences of `tokens` ids, cut from training prompts laid end to end."""
    ids = [token for prompt in prompts for token in prompt]
    return [
        ProbeSequence(token_ids=np.asarray(ids[start : start + tokens], np.int32))
        for start in range(0, min(len(ids) - 1, count * tokens), tokens)
    ]
