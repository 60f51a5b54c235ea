"""What one batch did, summed over micro-batches here and over ranks at the end."""

from __future__ import annotations

import torch
import torch.distributed as dist

from actors.engines.deepspeed.micro_batch import MicroBatchTensors
from maspo_dist.algorithm import (
    Objective,
    RatioExtremes,
    TokenExtreme,
    Totals,
    correction_metrics,
    empty_correction,
    empty_extremes,
    empty_trust_region,
    ratio_extremes,
    trust_region_metrics,
    trust_region_totals,
)
from maspo_dist.algorithm.logprobs import TokenLogprobs
from maspo_dist.config import AlgorithmConfig


class BatchStatistics:
    """Accumulates on the device without waiting for it; `metrics` is collective."""

    def __init__(self, config: AlgorithmConfig, device: torch.device) -> None:
        self._config = config
        self._trust_region = empty_trust_region(device)
        self._correction = empty_correction(device)
        self._extremes = empty_extremes(device)
        # (loss, policy part, KL part); (tokens, Σ|logπ_old − logπ_behavior|); max of the latter.
        self._losses = torch.zeros(3, dtype=torch.float64, device=device)
        self._mismatch = Totals(
            sums=torch.zeros(2, dtype=torch.float64, device=device),
            maxima=torch.zeros(1, dtype=torch.float64, device=device),
        )

    @torch.no_grad()
    def add(self, micro: MicroBatchTensors, objective: Objective, current: TokenLogprobs) -> None:
        """Adds a micro-batch whose logπ_old is known; `current` are its values under the policy in training."""
        sampled = micro.sampled
        assert sampled.old_logprobs is not None
        assert sampled.behavior_logprobs is not None
        if self._config.old_logprobs == "recompute":
            # Learner against rollout engine on the same tokens and, policy age aside, the same weights.
            gap = (sampled.old_logprobs - sampled.behavior_logprobs).abs().double()
            self._mismatch = self._mismatch + Totals(
                sums=torch.stack((torch.ones_like(gap).sum(), gap.sum())),
                maxima=torch.cat((gap, gap.new_zeros(1))).amax(0, keepdim=True),
            )
        self._losses += torch.stack((objective.loss, objective.policy_loss, objective.kl_loss)).double()
        self._trust_region = self._trust_region + trust_region_totals(
            self._config.loss,
            current.logprobs,
            sampled.old_logprobs,
            objective.advantages,
            objective.gate,
            current.entropy,
        )
        if objective.correction is not None:
            self._correction = self._correction + objective.correction
        self._extremes = self._extremes + ratio_extremes(
            current.logprobs,
            sampled.old_logprobs,
            objective.advantages,
            objective.gate,
            micro.forward.targets,
            micro.positions,
            micro.token_groups,
        )

    def metrics(self, optimizer_steps: int) -> dict[str, float]:
        """Flat numbers of the batch, the same on every rank."""
        for totals in (self._trust_region, self._correction, self._mismatch):
            _all_reduce(totals)
        dist.all_reduce(self._losses)
        loss, policy_loss, kl_loss = (self._losses / optimizer_steps).tolist()
        tokens, gap = self._mismatch.sums.tolist()
        metrics = {"learner/loss": loss, "learner/policy_loss": policy_loss}
        if self._config.kl.coefficient > 0:
            metrics["learner/kl_loss"] = kl_loss
        if tokens:
            metrics["mismatch/abs_mean"] = gap / tokens
            metrics["mismatch/abs_max"] = self._mismatch.maxima.item()
        metrics |= trust_region_metrics(self._config.loss, self._trust_region)
        metrics |= correction_metrics(self._config.correction, self._correction)
        highest, lowest = _gathered(self._extremes).tokens()
        if highest:
            metrics |= _extreme_metrics("ratio/max_token", highest[0])
            metrics |= _extreme_metrics("ratio/min_token", lowest[0])
        return metrics


def _all_reduce(totals: Totals) -> None:
    dist.all_reduce(totals.sums)
    dist.all_reduce(totals.maxima, op=dist.ReduceOp.MAX)


def _gathered(extremes: RatioExtremes) -> RatioExtremes:
    mine = torch.stack((extremes.highest, extremes.lowest))
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    merged, *others = (RatioExtremes(highest=both[0], lowest=both[1]) for both in everyone)
    for other in others:
        merged = merged + other
    return merged


def _extreme_metrics(prefix: str, extreme: TokenExtreme) -> dict[str, float]:
    """Which token had the batch's largest or smallest ratio, and how it stood."""
    return {
        f"{prefix}/ratio": extreme.ratio,
        f"{prefix}/old_probability": extreme.old_probability,
        f"{prefix}/advantage": extreme.advantage,
        f"{prefix}/gate": extreme.gate,
        f"{prefix}/token_id": float(extreme.token_id),
        f"{prefix}/position": float(extreme.position),
        f"{prefix}/group_id": float(extreme.group_id),
    }
