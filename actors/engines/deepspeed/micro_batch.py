"""A packed micro-batch on the device, with what is known of it before the first optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.engines.deepspeed.attention import SequenceBounds, sequence_bounds
from maspo_dist.algorithm import SampledTokens, TokenBatch
from maspo_dist.algorithm.logprobs import TokenLogprobs
from maspo_dist.data.packing import PackedMicroBatch, PackedTokens
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import MicroBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTensors:
    """Packed sequences for Policy.forward: input_ids and position_ids [1, P], predictors and targets [N], all i64."""

    input_ids: Tensor
    position_ids: Tensor
    predictors: Tensor
    targets: Tensor
    bounds: SequenceBounds


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchTensors:
    """Response tokens [N], responses [S]; see PackedMicroBatch.

    old                 logπ_old and its entropy, [N]
    ref_logprobs        [N], None without a reference policy
    """

    samples: MicroBatch
    forward: ForwardTensors
    sequence_ids: Tensor
    positions: Tensor
    behavior_logprobs: Tensor
    token_groups: Tensor
    advantages: Tensor
    old: TokenLogprobs | None = None
    ref_logprobs: Tensor | None = None

    @property
    def packed_tokens(self) -> int:
        """Prompt and response tokens; an empty micro-batch counts none."""
        return self.forward.input_ids.numel() if self.samples else 0

    def token_batch(self, current: TokenLogprobs, *, entropy_gradient: bool) -> TokenBatch:
        """What the objective is computed from. Needs `old`."""
        sampled = self.sampled_tokens()
        return TokenBatch(
            logprobs=current.logprobs,
            entropy=current.entropy if entropy_gradient else current.entropy.detach(),
            old_logprobs=sampled.old_logprobs,
            advantages=sampled.advantages,
            sequence_ids=sampled.sequence_ids,
            behavior_logprobs=sampled.behavior_logprobs,
            ref_logprobs=sampled.ref_logprobs,
        )

    def sampled_tokens(self) -> SampledTokens:
        """What `token_batch` holds before the policy has run. Needs `old`."""
        assert self.old is not None
        return SampledTokens(
            old_logprobs=self.old.logprobs,
            advantages=self.advantages,
            sequence_ids=self.sequence_ids,
            behavior_logprobs=self.behavior_logprobs,
            ref_logprobs=self.ref_logprobs,
        )

    def response_logprobs(self) -> list[ResponseLogprobs]:
        """`old` and `ref_logprobs` by response, copied to the CPU. Needs `old`."""
        assert self.old is not None
        entries = []
        for index, sample in enumerate(self.samples):
            mine = self.sequence_ids == index
            ref = None if self.ref_logprobs is None else self.ref_logprobs[mine].float().cpu().numpy()
            old = self.old.logprobs[mine].float().cpu().numpy()
            entries.append(ResponseLogprobs(group_id=sample.group_id, sample=sample.sample, old=old, ref=ref))
        return entries


def forward_tensors(packed: PackedTokens, device: torch.device) -> ForwardTensors:
    return ForwardTensors(
        input_ids=torch.from_numpy(packed.input_ids)[None].to(device),
        position_ids=torch.from_numpy(packed.position_ids)[None].to(device),
        predictors=torch.from_numpy(packed.predictors).to(device),
        targets=torch.from_numpy(packed.targets).to(device),
        bounds=sequence_bounds(packed.position_ids, device),
    )


def micro_batch_tensors(packed: PackedMicroBatch, device: torch.device) -> MicroBatchTensors:
    sequence_ids = torch.from_numpy(packed.sequence_ids)
    return MicroBatchTensors(
        samples=packed.samples,
        forward=forward_tensors(packed.tokens, device),
        sequence_ids=sequence_ids.to(device),
        positions=torch.from_numpy(packed.positions).to(device),
        behavior_logprobs=torch.from_numpy(np.array(packed.behavior_logprobs)).to(device),
        token_groups=torch.from_numpy(packed.group_ids)[sequence_ids].to(device),
        advantages=torch.from_numpy(packed.advantages)[sequence_ids].to(device),
    )


def with_response_advantages(micro: MicroBatchTensors, advantages: Sequence[float]) -> Tensor:
    """f32[N]: one advantage a response [S], spread over its tokens."""
    return torch.tensor(advantages, dtype=torch.float32, device=micro.advantages.device)[micro.sequence_ids]
