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
    """A micro-batch of R responses with N sampled tokens, in the order of its SampleRefs.

    samples             the R references, in packing order
    sequence_ids        i64[N] in [0, R), the response of a token, ascending
    positions           i64[N], position within the response, from 0; heard tokens count too
    behavior_logprobs   f32[N]
    group_ids           i64[R]
    advantages          f32[R], one per response
    """

    tokens: PackedTokens
    samples: MicroBatch
    sequence_ids: Index
    positions: Index
    behavior_logprobs: FloatArray
    group_ids: Index
    advantages: FloatArray


def pack_sequences(sequences: Sequence[IntArray], targets: Sequence[Index]) -> PackedTokens:
    """Packs whole sequences. In sequence s, the tokens at the indices `targets[s]` are predicted: ascending, each ≥ 1.

    Without sequences the result is a single token and nothing to predict: the rank runs as many forwards as the others.
    """
    if not sequences:
        one = np.zeros(1, dtype=np.int64)
        return PackedTokens(input_ids=one, position_ids=one, predictors=_NO_POSITIONS, targets=_NO_POSITIONS)
    lengths = [sequence.size for sequence in sequences]
    offsets = np.cumsum([0, *lengths[:-1]])
    input_ids = np.concatenate(sequences).astype(np.int64)
    where = np.concatenate([offset + indices for offset, indices in zip(offsets, targets, strict=True)])
    return PackedTokens(
        input_ids=input_ids,
        position_ids=np.concatenate([np.arange(length) for length in lengths]).astype(np.int64),
        predictors=where - 1,
        targets=input_ids[where],
    )


def pack_micro_batch(samples: MicroBatch, groups: Mapping[int, RolloutGroup]) -> PackedMicroBatch:
    """Packs prompt and response of every sample; the sampled tokens are predicted.

    Raises KeyError if a group of `samples` is not in `groups`.
    """
    rollouts = [groups[ref.group_id].rollouts[ref.sample] for ref in samples]
    prompts = [groups[ref.group_id].prompt.token_ids for ref in samples]
    sampled = [rollout.sampled for rollout in rollouts]
    return PackedMicroBatch(
        tokens=pack_sequences(
            [np.concatenate((prompt, rollout.response_ids)) for prompt, rollout in zip(prompts, rollouts, strict=True)],
            [prompt.size + indices for prompt, indices in zip(prompts, sampled, strict=True)],
        ),
        samples=samples,
        sequence_ids=np.repeat(np.arange(len(samples), dtype=np.int64), [indices.size for indices in sampled]),
        positions=np.concatenate([_NO_POSITIONS, *sampled]),
        behavior_logprobs=np.concatenate([_NO_LOGPROBS, *(rollout.behavior_logprobs for rollout in rollouts)]),
        group_ids=np.array([ref.group_id for ref in samples], dtype=np.int64),
        advantages=np.array([ref.advantage for ref in samples], dtype=np.float32),
    )
