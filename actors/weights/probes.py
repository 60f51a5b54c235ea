"""The token sequences whose logprobs prove a publish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maspo_dist.config import TrainConfig
from maspo_dist.planning.placement import Device
from maspo_dist.types import IntArray, RolloutGroup

#: Tokens of all probes of a publish. In float32 the gaps are a tenth of their limit, so fewer tokens measure them.
_ON_GPU = 4096
_ON_CPU = {"bfloat16": 256, "float32": 128}
#: Tokens that are enough of a response with its prompt.
_LONGEST = 512


def longest_probe(config: TrainConfig) -> int:
    """Tokens of the longest probe: an engine also has room for the token that it samples after a probe."""
    return min(_LONGEST, config.data.max_prompt_tokens + config.rollout.max_response_tokens - 1)


def probe_tokens(configured: int | None, device: Device, dtype: str) -> int:
    """Tokens of all probes of a publish: `sync.probe_tokens`, or what takes `device` less time than the publish."""
    if configured is not None:
        return configured
    return _ON_GPU if device == "cuda" else _ON_CPU[dtype]


def probe_sequences(prompts: Sequence[Sequence[int]], count: int, tokens: int) -> list[IntArray]:
    """`count` sequences of `tokens` ids, cut from training prompts laid end to end."""
    ids = [token for prompt in prompts for token in prompt]
    return [
        np.asarray(ids[start : start + tokens], np.int32)
        for start in range(0, min(len(ids) - 1, count * tokens), tokens)
    ]


def response_probes(groups: Sequence[RolloutGroup], tokens: int, longest: int) -> list[IntArray]:
    """Prompts with their responses, one of each group first: `tokens` ids in all, or fewer.

    A response is cut where it and its prompt are longer than `longest`; the last one also where the ids are enough.
    """
    probes: list[IntArray] = []
    for sequence in _responses(groups):
        if tokens < 2:
            break
        probes.append(sequence[: min(tokens, longest)])
        tokens -= probes[-1].size
    return probes


def _responses(groups: Sequence[RolloutGroup]) -> Iterator[IntArray]:
    for sample in range(max((len(group.rollouts) for group in groups), default=0)):
        for group in groups:
            if sample < len(group.rollouts):
                yield np.concatenate([group.prompt.token_ids, group.rollouts[sample].response_ids])
