"""The KL penalty in the reward: it changes the advantages of a batch, which need the penalties of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from actors.engines.deepspeed.micro_batch import MicroBatchTensors
from maspo_dist.algorithm import advantages_after_kl, response_kl
from maspo_dist.config import AlgorithmConfig


def with_kl_in_reward(
    minis: Sequence[Sequence[MicroBatchTensors]], algorithm: AlgorithmConfig, ranks: dist.ProcessGroup | None
) -> list[list[MicroBatchTensors]]:
    """The mini-batches of this rank, which hold logπ_old and logπ_ref, with advantages after the penalty.

    Collective over `ranks`, which have different responses.
    """
    mine = []
    for micro in (micro for mini in minis for micro in mini if micro.samples):
        sampled = micro.sampled
        assert sampled.old_logprobs is not None
        assert sampled.ref_logprobs is not None
        kl = response_kl(sampled.old_logprobs, sampled.ref_logprobs, sampled.sequence_ids, algorithm.kl.estimator)
        mine += list(zip(micro.samples, kl.tolist(), strict=True))
    everyone: list[Any] = [None] * dist.get_world_size(ranks)
    dist.all_gather_object(everyone, mine, group=ranks)
    advantages = advantages_after_kl([pair for part in everyone for pair in part], algorithm)

    def with_advantages(micro: MicroBatchTensors) -> MicroBatchTensors:
        by_response = [advantages[ref.group_id, ref.sample] for ref in micro.samples]
        sampled = micro.sampled
        values = torch.tensor(by_response, dtype=torch.float32, device=sampled.advantages.device)
        return replace(micro, sampled=replace(sampled, advantages=values[sampled.sequence_ids]))

    return [[with_advantages(micro) for micro in mini] for mini in minis]
