"""What a step's groups say of the policy and the rollouts, as flat numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from maspo_dist.types import ScoredGroup


def batch_metrics(groups: Sequence[ScoredGroup], policy_version: int) -> dict[str, float]:
    """Over all sampled groups of a step, those dropped before training included.

    reward/mean is over verifiable responses only; policy/age_* over tokens, in policy versions behind
    `policy_version`, the learner's at consumption.
    """
    verdicts = [verdict for group in groups for verdict in group.report.verdicts]
    verifiable = np.concatenate([[verdict.verifiable for verdict in group.report.verdicts] for group in groups])
    rewards = np.concatenate([group.rewards for group in groups])
    tokens = np.concatenate([group.report.response_tokens for group in groups])
    truncated = np.concatenate([group.report.truncated for group in groups])
    ages: Counter[int] = Counter()
    for group in groups:
        for version, count in group.report.version_tokens:
            ages[policy_version - version] += count
    metrics = {
        "reward/mean": float(rewards[verifiable].mean()) if verifiable.any() else 0.0,
        "reward/unverifiable_share": float(1.0 - verifiable.mean()),
        "reward/unparsed_share": sum(verdict.status == "unparsed" for verdict in verdicts) / len(verdicts),
        "rollout/response_tokens_mean": float(tokens.mean()),
        "rollout/response_tokens_max": float(tokens.max()),
        "rollout/truncated_share": float(truncated.mean()),
        "rollout/zero_variance_share": sum(not group.advantages.any() for group in groups) / len(groups),
        "policy/age_mean": sum(age * count for age, count in ages.items()) / sum(ages.values()),
        "policy/age_min": float(min(ages)),
        "policy/age_max": float(max(ages)),
    }
    return metrics | _component_means(groups)


def _component_means(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Means of the named parts of weighted rewards."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for verdict in group.report.verdicts:
            if verdict.verifiable:
                for name, value in verdict.components:
                    values.setdefault(name, []).append(value)
    return {f"reward/component/{name}": float(np.mean(parts)) for name, parts in sorted(values.items())}
