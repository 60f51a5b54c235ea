"""Metrics of one batch, gathered over micro-batches here and over ranks at the end."""

from __future__ import annotations

import operator
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

from actors.engines.deepspeed.micro_batch import MicroBatchTensors
from maspo_dist.algorithm import (
    Objective,
    Totals,
    correction_metrics,
    extreme_metrics,
    merge_extremes,
    ratio_extremes,
    trust_region_metrics,
    trust_region_totals,
)
from maspo_dist.algorithm.logprobs import TokenLogprobs
from maspo_dist.config import AlgorithmConfig


class BatchStatistics:
    """`add` does not wait for the device; `metrics` is collective and needs at least one micro-batch."""

    def __init__(self, config: AlgorithmConfig, ranks: dist.ProcessGroup | None) -> None:
        """`ranks` together hold each response once; None for all ranks."""
        self._config = config
        self._ranks = ranks
        #: (loss, policy part, KL part) of each micro-batch.
        self._losses: list[Tensor] = []
        self._trust_region: list[Totals] = []
        self._correction: list[Totals] = []
        #: Σ (1, |logπ_old − logπ_behavior|), and the largest of the latter.
        self._mismatch: list[Totals] = []
        self._extremes: list[Tensor] = []

    @torch.no_grad()
    def add(self, micro: MicroBatchTensors, objective: Objective, current: TokenLogprobs) -> None:
        """Adds a micro-batch whose logπ_old is known; `current` are its values under the policy in training."""
        sampled, old = micro.sampled, micro.sampled.old_logprobs
        assert old is not None
        assert sampled.behavior_logprobs is not None
        assert objective.correction is not None
        self._losses.append(torch.stack((objective.loss, objective.policy_loss, objective.kl_loss)).double())
        self._correction.append(objective.correction)
        # Learner against rollout engine on the same tokens and, policy age aside, the same weights.
        gap = (old - sampled.behavior_logprobs).abs().double()
        sums = torch.stack((torch.ones_like(gap).sum(), gap.sum()))
        self._mismatch.append(Totals(sums=sums, maxima=torch.cat((gap, gap.new_zeros(1))).amax(0, keepdim=True)))
        advantages, gate = objective.advantages, objective.gate
        self._trust_region.append(
            trust_region_totals(self._config.loss, current.logprobs, old, advantages, gate, current.entropy)
        )
        where = micro.forward.targets, micro.positions, micro.token_groups
        self._extremes.append(ratio_extremes(current.logprobs, old, advantages, gate, *where))

    def metrics(self, optimizer_steps: int) -> dict[str, float]:
        """Flat numbers of the batch, the same on every rank."""
        trust_region, correction, mismatch = (
            _summed(parts, self._ranks) for parts in (self._trust_region, self._correction, self._mismatch)
        )
        losses = reduce(operator.add, self._losses)
        dist.all_reduce(losses, group=self._ranks)
        loss, policy_loss, kl_loss = (losses / optimizer_steps).tolist()
        metrics = {"learner/loss": loss, "learner/policy_loss": policy_loss}
        if self._config.kl.coefficient > 0:
            metrics["learner/kl_loss"] = kl_loss
        tokens, gap = mismatch.sums.tolist()
        if tokens and self._config.old_logprobs == "recompute":
            metrics["mismatch/abs_mean"] = gap / tokens
            metrics["mismatch/abs_max"] = mismatch.maxima.item()
        metrics |= trust_region_metrics(self._config.loss, trust_region)
        metrics |= correction_metrics(self._config.correction, correction)
        mine = merge_extremes(torch.stack(self._extremes))
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(self._ranks))]
        dist.all_gather(everyone, mine, group=self._ranks)
        return metrics | extreme_metrics(merge_extremes(torch.stack(everyone)))


def _summed(parts: list[Totals], ranks: dist.ProcessGroup | None) -> Totals:
    """Over micro-batches and ranks."""
    total = reduce(operator.add, parts)
    dist.all_reduce(total.sums, group=ranks)
    dist.all_reduce(total.maxima, op=dist.ReduceOp.MAX, group=ranks)
    return total
