"""What a step records of its groups: metrics of rewards, responses, policy ages and times, and samples as text."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import get_args

import numpy as np

from actors.controller.conversation_rows import conversation_metrics
from actors.controller.group_stream import Batch
from actors.interfaces import Body
from maspo_dist.data.trajectory import turn_rows
from maspo_dist.errors import BodyLostError
from maspo_dist.runs.metrics import metric_part
from maspo_dist.runs.rows import SampleRow
from maspo_dist.types import Conversation, FinishedGroup, Rollout, RolloutGroup, ScoredGroup, VerdictStatus

logger = logging.getLogger(__name__)


def batch_metrics(batch: Batch, policy_version: int) -> dict[str, float]:
    """Over all sampled groups of a step, including groups dropped before training.

    reward/mean is over verifiable responses only; policy/age_* over tokens, in policy versions behind
    `policy_version`, the learner's at consumption. Compare
    rollout/trained_tokens_mean to response_tokens_mean to see whether dropped groups differ in length.
    """
    groups = [group.scored for group in batch.groups]
    counts = {
        "rollout/groups_trained": float(len(batch.training)),
        "rollout/groups_dropped": float(len(groups) - len(batch.training) + len(batch.lost)),
    }
    if not groups:
        return counts
    trained = [group.scored.report.response_tokens for group in batch.groups if group.dropped is None]
    verdicts = [verdict for group in groups for verdict in group.report.verdicts]
    statuses = Counter(verdict.status for verdict in verdicts)
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
        "reward/unparsed_share": statuses["unparsed"] / len(verdicts),
        **{f"verdicts/{status}": float(statuses[status]) for status in get_args(VerdictStatus)},
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
    return counts | metrics | _component_means(groups) | conversation_metrics([group.report for group in groups])


def generation_times(batch: Batch, started_s: float, taken_s: float, last_taken_s: float | None) -> dict[str, float]:
    """generate_s is the time from the start of the step to the batch's last response, or 0 if that ended earlier.
    verify_s is the rest of the time until the batch was taken.

    tokens_per_s is over the time from the first request to the last response, but at most over the time since the
    previous batch was taken, because generation of batches may overlap. Groups of a checkpoint do not count, since
    the time while the run was down is no time of generation.
    """
    if not batch.groups:
        return {}
    generated_s = max(group.scored.report.generated_at_s for group in batch.groups)
    generate_s = min(max(0.0, generated_s - started_s), taken_s - started_s)
    times = {
        "time/generate_s": generate_s,
        "time/verify_s": taken_s - started_s - generate_s,
        "rollout/tokens": float(sum(map(_tokens, batch.groups))),
    }
    fresh = [(group, sent_at_s) for group in batch.groups if (sent_at_s := group.sent_at_s) is not None]
    if not fresh:
        return times
    span_s = max(group.scored.report.generated_at_s for group, _ in fresh) - min(sent_at_s for _, sent_at_s in fresh)
    if last_taken_s is not None:
        span_s = min(span_s, taken_s - last_taken_s)
    return times | {"rollout/tokens_per_s": sum(_tokens(group) for group, _ in fresh) / max(span_s, 1e-3)}


def _tokens(group: FinishedGroup[Body]) -> int:
    return int(group.scored.report.response_tokens.sum())


def _component_means(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Means of the named parts of weighted rewards; parts whose names become equal as metrics share their mean."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for verdict in group.report.verdicts:
            if verdict.verifiable:
                for name, value in verdict.components:
                    values.setdefault(metric_part(name), []).append(value)
    return {f"reward/component/{name}": float(np.mean(parts)) for name, parts in sorted(values.items())}


async def sample_rows(
    step: int,
    groups: Sequence[FinishedGroup[Body]],
    fetch: Callable[[Body], Awaitable[RolloutGroup]],
    decode: Callable[[Sequence[int]], str],
) -> list[SampleRow]:
    """One row per response, in order; no rows for a group whose body was lost with its node."""
    rows: list[SampleRow] = []
    for collected in groups:
        try:
            body = await fetch(collected.body)
        except BodyLostError as error:
            logger.warning("step %d: the text of group %d is lost: %s", step, collected.group_id, error)
            continue
        scored = collected.scored
        conversations = scored.report.conversations or (None,) * len(body.rollouts)
        prompt = decode(body.prompt.token_ids.tolist())
        rows += [
            SampleRow(
                step=step,
                group_id=collected.group_id,
                prompt_id=body.prompt.prompt_id,
                source=body.prompt.source,
                prompt=prompt,
                response=rollout.text,
                response_start=body.prompt.response_start,
                reference=body.prompt.reference,
                reward=float(reward),
                scored_by="environment" if _is_scored_by_environment(rollout, conversation) else "verifier",
                status=verdict.status,
                extracted=verdict.extracted,
                seconds=verdict.seconds,
                reason=verdict.reason,
                finish_reason=rollout.finish_reason,
                components=dict(verdict.components),
                turns=turn_rows(rollout, conversation, decode),
            )
            for rollout, verdict, reward, conversation in zip(
                body.rollouts, scored.report.verdicts, scored.rewards, conversations, strict=True
            )
        ]
    return rows


def _is_scored_by_environment(rollout: Rollout, conversation: Conversation | None) -> bool:
    """Whether steps of an environment gave the reward, or an environment that failed."""
    return bool(rollout.turn_rewards) or (conversation is not None and conversation.ended == "failed")
