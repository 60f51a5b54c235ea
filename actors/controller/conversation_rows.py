"""What a step records of its conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np

from maspo_dist.runs.metrics import metric_part
from maspo_dist.runs.rows import Event, EventKind
from maspo_dist.types import Conversation, ConversationEnd, GroupReport


def conversation_metrics(reports: Sequence[GroupReport]) -> dict[str, float]:
    """Over all responses of a step; empty without an environment."""
    played = [pair for report in reports for pair in zip(report.conversations, report.verdicts, strict=False)]
    if not played:
        return {}
    conversations = [conversation for conversation, _ in played]
    failed = [verdict.status for conversation, verdict in played if conversation.ended == "failed"]
    turns = np.asarray([conversation.turns for conversation in conversations])
    heard = sum(int(report.heard_tokens.sum()) for report in reports)
    tokens = heard + sum(int(report.response_tokens.sum()) for report in reports)
    metrics = {f"conversation/{name}": value / len(played) for name, value in _sums(conversations).items()}
    metrics |= {
        "conversation/turns_mean": float(turns.mean()),
        "conversation/turns_max": float(turns.max()),
        "conversation/heard_share": heard / tokens,
        "conversation/broken_tokens": float(sum(conversation.broken_tokens for conversation in conversations)),
        "conversation/restarts": float(sum(len(conversation.lost) for conversation in conversations)),
        "environment/timeouts": float(failed.count("timeout")),
        "environment/deaths": float(failed.count("error")),
    }
    for end in get_args(ConversationEnd):
        ended = sum(conversation.ended == end for conversation in conversations)
        metrics[f"conversation/ended_{end}_share"] = ended / len(played)
    seconds = [seconds for conversation in conversations for seconds in conversation.step_seconds]
    if seconds:
        metrics["environment/step_s_p50"], metrics["environment/step_s_p95"] = np.quantile(
            seconds, [0.5, 0.95]
        ).tolist()
    return metrics


def environment_events(report: GroupReport, known: set[str]) -> Iterator[Event]:
    """Why environments failed or were lost, each reason once; adds to `known`."""
    found: list[tuple[EventKind, str]] = []
    for conversation, verdict in zip(report.conversations, report.verdicts, strict=False):
        found += [("environments_lost", how) for how in conversation.lost]
        if conversation.ended == "failed":
            found.append(("environment_failed", verdict.reason))
    for kind, reason in found:
        if reason not in known:
            known.add(reason)
            yield Event(kind=kind, message=reason, details=(("group", report.group_id),))


def _sums(conversations: Sequence[Conversation]) -> dict[str, float]:
    """The numbers that steps reported, summed by the part of the metric's name that stands for them; sorted by it."""
    sums: dict[str, float] = {}
    for conversation in conversations:
        for name, number in conversation.metrics:
            part = metric_part(name)
            sums[part] = sums.get(part, 0.0) + number
    return dict(sorted(sums.items()))
