"""Metrics of a step's groups: rewards, responses, policy ages and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from actors.controller.group_stream import Batch
from actors.interfaces import PublishReport
from maspo_dist.types import ScoredGroup


def batch_metrics(batch: Batch, policy_version: int) -> dict[str, float]:
    """Over all sampled groups of a step, including groups dropped before training.

    reward/mean is over verifiable responses only; policy/age_* over tokens, in policy versions behind
    `policy_version`, the learner's at consumption. Compare
    rollout/trained_tokens_mean to response_tokens_mean to see whether dropped groups differ in length.
    """
    groups = [group.scored for group in batch.groups]
    if not groups:
        return {}
    trained = [group.scored.report.response_tokens for group in batch.groups if group.dropped is None]
    verdicts = [verdict for group in groups for verdict in group.report.verdicts]
    verifiable = np.concatenate([[verdict.verifiable for verdict in group.report.verdicts] for group in groups])
    rewards = np.concatenate([group.rewards for group in groups])
    tokens = np.concatenate([group.report.response_tokens for group in groups])
    truncated = np.concatenate([group.report.truncated for group in groups])
    runs = np.concatenate([group.report.version_runs for group in groups])
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
        "rollout/trained_tokens_mean": float(np.concatenate(trained).mean()) if trained else 0.0,
        "rollout/truncated_share": float(truncated.mean()),
        "rollout/zero_variance_share": sum(not group.advantages.any() for group in groups) / len(groups),
        "policy/age_mean": sum(age * count for age, count in ages.items()) / sum(ages.values()),
        "policy/age_min": float(min(ages)),
        "policy/age_max": float(max(ages)),
        "policy/versions_per_response_mean": float(runs.mean()),
        "policy/versions_per_response_max": float(runs.max()),
    }
    return metrics | _component_means(groups)


def generation_times(batch: Batch, started_s: float, taken_s: float, last_taken_s: float | None) -> dict[str, float]:
    """generate_s is the time from the start of the step to the batch's last response, or 0 if that ended earlier.
    verify_s is the rest of the time until the batch was taken.

    tokens_per_s is over the time from the first request to the last response, but at most over the time since the
    previous batch was taken, because generation of batches may overlap.
    """
    if not batch.groups:
        return {}
    generated_s = max(group.scored.report.generated_at_s for group in batch.groups)
    tokens = sum(int(group.scored.report.response_tokens.sum()) for group in batch.groups)
    generate_s = min(max(0.0, generated_s - started_s), taken_s - started_s)
    span_s = generated_s - min(group.sent_at_s for group in batch.groups)
    if last_taken_s is not None:
        span_s = min(span_s, taken_s - last_taken_s)
    return {
        "time/generate_s": generate_s,
        "time/verify_s": taken_s - started_s - generate_s,
        "rollout/tokens": float(tokens),
        "rollout/tokens_per_s": tokens / max(span_s, 1e-3),
    }


def publish_metrics(published: PublishReport) -> dict[str, float]:
    """Duration of a publish, and the largest logprob gap of its proof."""
    return {
        "sync/max_logprob_gap": published.max_logprob_gap,
        "sync/transfer_s": published.transfer_s,
        "sync/pause_s": published.pause_s,
    }


def _component_means(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Means of the named parts of weighted rewards."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for verdict in group.report.verdicts:
            if verdict.verifiable:
                for name, value in verdict.components:
                    values.setdefault(name, []).append(value)
    return {f"reward/component/{name}": float(np.mean(parts)) for name, parts in sorted(values.items())}
