"""Packs sequences end to end for one forward: no padding, and positions restart at 0 with each sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maspo_dist.types import FloatArray, IntArray, MicroBatch, RolloutGroup

Index = NDArray[np.int64]

# Put before a list of arrays that can be empty: numpy cannot concatenate nothing.
_NO_POSITIONS = np.zeros(0, dtype=np.int64)
_NO_LOGPROBS = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTokens:
    """Input of one forward over P tokens, which predicts N of them.

    input_ids, position_ids   i64[P]; P ≥ 1 even if N = 0
    predictors                i64[N], position in [0, P) of the hidden state that predicts token n
    targets                   i64[N], the predicted tokens
    """

    input_ids: Index
    position_ids: Index
    predictors: Index
    targets: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMicroBatch:
    """A micro-batch of S responses with N response tokens, in the order of its SampleRefs.

    samples             the S references, in packing order
    sequence_ids        i64[N] in [0, S), the response of a token, ascending
    positions           i64[N], position within the response, from 0
    behavior_logprobs   f32[N]
    group_ids           i64[S]
    advantages          f32[S], one per response
    """

    tokens: PackedTokens
    samples: MicroBatch
    sequence_ids: Index
    positions: Index
    behavior_logprobs: FloatArray
    group_ids: Index
    advantages: FloatArray


def pack_sequences(sequences: Sequence[IntArray], first_targets: Sequence[int]) -> PackedTokens:
    """Packs whole sequences. In sequence s, the tokens from index `first_targets[s]` ≥ 1 on are predicted.

    Without sequences the result is a single token and nothing to predict: the rank runs as many forwards as the others.
    """
    if not sequences:
        one = np.zeros(1, dtype=np.int64)
        return PackedTokens(input_ids=one, position_ids=one, predictors=_NO_POSITIONS, targets=_NO_POSITIONS)
    lengths = [sequence.size for sequence in sequences]
    offsets = np.cumsum([0, *lengths[:-1]])
    input_ids = np.concatenate(sequences).astype(np.int64)
    spans = zip(offsets + first_targets, offsets + lengths, strict=True)
    where = np.concatenate([np.arange(start, end) for start, end in spans]).astype(np.int64)
    return PackedTokens(
        input_ids=input_ids,
        position_ids=np.concatenate([np.arange(length) for length in lengths]).astype(np.int64),
        predictors=where - 1,
        targets=input_ids[where],
    )


def pack_micro_batch(samples: MicroBatch, groups: Mapping[int, RolloutGroup]) -> PackedMicroBatch:
    """Packs prompt and response of every sample; the response tokens are predicted.

    Raises KeyError if a group of `samples` is not in `groups`.
    """
    rollouts = [groups[ref.group_id].rollouts[ref.sample] for ref in samples]
    prompts = [groups[ref.group_id].prompt.token_ids for ref in samples]
    lengths = [rollout.response_ids.size for rollout in rollouts]
    return PackedMicroBatch(
        tokens=pack_sequences(
            [np.concatenate((prompt, rollout.response_ids)) for prompt, rollout in zip(prompts, rollouts, strict=True)],
            [prompt.size for prompt in prompts],
        ),
        samples=samples,
        sequence_ids=np.repeat(np.arange(len(samples), dtype=np.int64), lengths),
        positions=np.concatenate([_NO_POSITIONS, *(np.arange(length) for length in lengths)]),
        behavior_logprobs=np.concatenate([_NO_LOGPROBS, *(rollout.behavior_logprobs for rollout in rollouts)]),
        group_ids=np.array([ref.group_id for ref in samples], dtype=np.int64),
        advantages=np.array([ref.advantage for ref in samples], dtype=np.float32),
    )
