"""From a group's verdicts to its rewards and advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from maspo_dist.algorithm import group_advantages, overlong_penalty
from maspo_dist.config import AlgorithmConfig
from maspo_dist.types import FloatArray, GroupReport, ScoredGroup, Verdict


def score_group(report: GroupReport, algorithm: AlgorithmConfig, max_response_tokens: int) -> ScoredGroup:
    """Rewards (the overlong penalty included, and among the components) and group-relative advantages.

    Unverifiable responses neither train nor count towards the group's mean: their advantage is 0 and
    `trainable` False. Truncated ones are masked likewise where `overlong.mask_truncated` is set, but
    keep their place in the mean.
    """
    verifiable = np.asarray([verdict.verifiable for verdict in report.verdicts], np.bool_)
    overlong = algorithm.overlong
    rewards = np.asarray([verdict.reward for verdict in report.verdicts], np.float32)
    if overlong.buffer_tokens:
        penalties = overlong_penalty(
            report.response_tokens, max_response_tokens, overlong.buffer_tokens, overlong.penalty
        )
        rewards = rewards + penalties
        report = replace(report, verdicts=_with_component(report.verdicts, "overlong", penalties))
    rewards[~verifiable] = 0.0
    advantages = np.zeros_like(rewards)
    if verifiable.any():
        advantages[verifiable] = group_advantages(rewards[verifiable], algorithm.advantage.normalize_std)
    trainable = verifiable & ~report.truncated if overlong.mask_truncated else verifiable
    return ScoredGroup(report=report, rewards=rewards, advantages=advantages, trainable=trainable)


def _with_component(verdicts: Sequence[Verdict], name: str, values: FloatArray) -> tuple[Verdict, ...]:
    return tuple(
        replace(verdict, components=(*verdict.components, (name, float(value))))
        for verdict, value in zip(verdicts, values, strict=True)
    )
