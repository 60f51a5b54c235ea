"""KL to the reference as a price on the reward, before advantages are taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from maspo_dist.algorithm import group_advantages
from maspo_dist.config import AlgorithmConfig
from maspo_dist.types import SampleRef


def advantages_after_kl(
    responses: Iterable[tuple[SampleRef, float]], config: AlgorithmConfig
) -> dict[tuple[int, int], float]:
    """Advantage by (group_id, sample) of rewards − coefficient · KL, over all responses of the batch.

    `responses` are (sample, KL summed over its tokens, nats) of every rank, in any order. Only what is
    trained on has a KL: masked responses have no place in the group's mean here.
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
