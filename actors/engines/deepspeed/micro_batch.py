"""A packed micro-batch on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.engines.deepspeed.attention import SequenceBounds, sequence_bounds
from actors.engines.deepspeed.sequence_parallel import ALONE, RankGroups
from maspo_dist.algorithm import SampledTokens
from maspo_dist.data.packing import PackedMicroBatch, PackedTokens
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import MicroBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTensors:
    """Packed sequences for Policy.forward; all tensors are i64.

    input_ids, position_ids   [1, P], or the P/n of a rank where n ranks share sequences
    predictors                [n], places in input_ids from which this rank predicts
    targets                   [N], the tokens that all ranks predict
    own                       the part of `targets` that this rank predicts
    bounds                    of all tokens
    """

    input_ids: Tensor
    position_ids: Tensor
    predictors: Tensor
    targets: Tensor
    own: slice
    bounds: SequenceBounds


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchTensors:
    """The responses of a micro-batch with their N tokens.

    packed_tokens   prompt and response tokens; an empty micro-batch counts none
    positions       i64[N], place within the response, from 0
    token_groups    i64[N], group_id of each token
    """

    samples: MicroBatch
    packed_tokens: int
    forward: ForwardTensors
    sampled: SampledTokens
    positions: Tensor
    token_groups: Tensor

    def response_logprobs(self) -> list[ResponseLogprobs]:
        """logπ_old and logπ_ref by response, copied to the CPU. Needs logπ_old."""
        sampled = self.sampled
        assert sampled.old_logprobs is not None
        entries = []
        for index, sample in enumerate(self.samples):
            mine = sampled.sequence_ids == index
            ref = None if sampled.ref_logprobs is None else sampled.ref_logprobs[mine].float().cpu().numpy()
            old = sampled.old_logprobs[mine].float().cpu().numpy()
            entries.append(ResponseLogprobs(group_id=sample.group_id, sample=sample.sample, old=old, ref=ref))
        return entries


def forward_tensors(packed: PackedTokens, device: torch.device, groups: RankGroups = ALONE) -> ForwardTensors:
    """This rank's tokens of `packed`. A sequence of padding fills them up to the same number on all ranks."""
    padding = np.arange(-packed.input_ids.size % groups.size)
    position_ids = np.concatenate((packed.position_ids, padding))
    share = position_ids.size // groups.size
    start = groups.index * share
    mine = slice(start, start + share)
    first, end = np.searchsorted(packed.predictors, (mine.start, mine.stop)).tolist()
    return ForwardTensors(
        input_ids=torch.from_numpy(np.concatenate((packed.input_ids, padding))[mine])[None].to(device),
        position_ids=torch.from_numpy(position_ids[mine])[None].to(device),
        predictors=torch.from_numpy(packed.predictors[first:end] - start).to(device),
        targets=torch.from_numpy(packed.targets).to(device),
        own=slice(first, end),
        bounds=sequence_bounds(position_ids, device),
    )


def micro_batch_tensors(
    packed: PackedMicroBatch, device: torch.device, groups: RankGroups = ALONE
) -> MicroBatchTensors:
    """`packed` on the device, without the values that a policy has to compute."""
    sequence_ids = torch.from_numpy(packed.sequence_ids)
    return MicroBatchTensors(
        samples=packed.samples,
        packed_tokens=packed.tokens.input_ids.size if packed.samples else 0,
        forward=forward_tensors(packed.tokens, device, groups),
        sampled=SampledTokens(
            old_logprobs=None,
            advantages=torch.from_numpy(packed.advantages)[sequence_ids].to(device),
            sequence_ids=sequence_ids.to(device),
            behavior_logprobs=torch.from_numpy(np.array(packed.behavior_logprobs)).to(device),
        ),
        positions=torch.from_numpy(packed.positions).to(device),
        token_groups=torch.from_numpy(packed.group_ids)[sequence_ids].to(device),
    )
