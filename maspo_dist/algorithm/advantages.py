"""Rewards and advantages: relative to the group, with a KL in the reward, shaped by token entropy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maspo_dist.algorithm.regularisers import overlong_penalty
from maspo_dist.config import AlgorithmConfig, EntropyAdvantage
from maspo_dist.types import GroupReport, SampleRef, ScoredGroup

_STD_EPSILON = 1e-6


@overload
def group_advantages(rewards: Tensor, normalize_std: bool = True) -> Tensor: ...
@overload
def group_advantages(rewards: NDArray[np.floating], normalize_std: bool = True) -> NDArray[np.floating]: ...
def group_advantages(
    rewards: Tensor | NDArray[np.floating], normalize_std: bool = True
) -> Tensor | NDArray[np.floating]:
    """(r − mean) / (std + 1e-6) over one group of responses to the same prompt, [G] → [G].

    std is unbiased (G − 1); `normalize_std=False` does not divide by it (Dr. GRPO, arXiv 2503.20783). Exactly 0 if all
    rewards are equal. Computed in float64, returned in the array kind and floating dtype of `rewards`.
    Raises ValueError unless rewards are [G], G ≥ 1, and finite.
    """
    if isinstance(rewards, Tensor):
        advantages = _advantages(rewards.detach().double().cpu().numpy(), normalize_std)
        dtype = rewards.dtype if rewards.is_floating_point() else torch.float32
        return torch.from_numpy(advantages).to(device=rewards.device, dtype=dtype)
    array = np.asarray(rewards)
    dtype_out = array.dtype if np.issubdtype(array.dtype, np.floating) else np.dtype(np.float32)
    return _advantages(array.astype(np.float64), normalize_std).astype(dtype_out)


def _advantages(rewards: NDArray[np.float64], normalize_std: bool) -> NDArray[np.float64]:
    if rewards.ndim != 1 or rewards.size == 0:
        raise ValueError(f"rewards must be [G] with G ≥ 1, got shape {list(rewards.shape)}")
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite, got {rewards.tolist()}")
    # The mean of equal rewards may differ from them by a rounding error, so compare the rewards themselves.
    if (rewards == rewards[0]).all():
        return np.zeros_like(rewards)
    centred: NDArray[np.float64] = rewards - rewards.mean()
    scale = float(rewards.std(ddof=1)) + _STD_EPSILON if normalize_std else 1.0
    return centred / scale


def score_group(report: GroupReport, algorithm: AlgorithmConfig, max_response_tokens: int) -> ScoredGroup:
    """Rewards, with the overlong penalty as a component, and group-relative advantages.

    Unverifiable responses do not train (advantage 0) and do not count towards the group's mean. With
    `overlong.mask_truncated`, truncated responses do not train, but they count towards the mean.
    """
    verifiable = np.asarray([verdict.verifiable for verdict in report.verdicts], np.bool_)
    overlong = algorithm.overlong
    rewards = np.asarray([verdict.reward for verdict in report.verdicts], np.float32)
    if overlong.buffer_tokens:
        # The limit is on sampled and heard tokens together.
        penalties = overlong_penalty(report.lengths, max_response_tokens, overlong.buffer_tokens, overlong.penalty)
        rewards = rewards + penalties
        verdicts = tuple(
            replace(verdict, components=(*verdict.components, ("overlong", float(penalty))))
            for verdict, penalty in zip(report.verdicts, penalties, strict=True)
        )
        report = replace(report, verdicts=verdicts)
    rewards[~verifiable] = 0.0
    advantages = np.zeros_like(rewards)
    if verifiable.any():
        advantages[verifiable] = group_advantages(rewards[verifiable], algorithm.advantage.normalize_std)
    trainable = verifiable & ~report.truncated if overlong.mask_truncated else verifiable
    return ScoredGroup(report=report, rewards=rewards, advantages=advantages, trainable=trainable)


def advantages_after_kl(
    responses: Iterable[tuple[SampleRef, float]], config: AlgorithmConfig
) -> dict[tuple[int, int], float]:
    """Advantages of rewards − coefficient · KL, by (group_id, sample).

    `responses` are (sample, KL summed over its tokens, nats) of all ranks, in any order. Only responses that train have
    a KL, so masked responses do not count towards the group's mean.
    """
    by_group: defaultdict[int, list[tuple[SampleRef, float]]] = defaultdict(list)
    for ref, kl in responses:
        by_group[ref.group_id].append((ref, kl))
    advantages: dict[tuple[int, int], float] = {}
    for members in by_group.values():
        members.sort(key=lambda member: member[0].sample)
        rewards = np.array([ref.reward - config.kl.coefficient * kl for ref, kl in members], dtype=np.float64)
        for (ref, _), advantage in zip(members, group_advantages(rewards, config.advantage.normalize_std), strict=True):
            advantages[ref.group_id, ref.sample] = float(advantage)
    return advantages


def entropy_advantages(config: EntropyAdvantage, advantages: Tensor, entropy: Tensor) -> Tensor:
    """A + min(α·H, |A|/κ) for each token, H detached (arXiv 2506.14758); [N], [N] nats → [N].

    κ > 1 keeps the sign of A; a token with A = 0 stays at 0.
    """
    bonus = torch.minimum(config.alpha * entropy.detach().to(advantages.dtype), advantages.abs() / config.kappa)
    return advantages + bonus
