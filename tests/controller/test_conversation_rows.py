"""Metrics of conversations, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.bench.doubles import make_report, make_verdict
from actors.controller.conversation_rows import conversation_metrics, environment_events
from maspo_dist.runs.catalogue import find_metric
from maspo_dist.runs.metrics import check_metrics
from maspo_dist.types import Conversation, GroupReport


def played() -> GroupReport:
    verdicts = (make_verdict(1.0), make_verdict(0.0), make_verdict(0.0, "timeout"), make_verdict(0.0, "error"))
    return replace(
        make_report(0, 3, [10, 20, 5, 5], verdicts),
        heard_tokens=np.asarray([30, 10, 0, 0], np.int32),
        conversations=(
            Conversation(turns=4, ended="done", step_seconds=(0.1, 0.2, 0.3, 0.4), metrics=(("calls", 3.0),)),
            Conversation(turns=2, ended="tokens", step_seconds=(0.5,), metrics=(("calls", 1.0),), broken_tokens=2),
            Conversation(turns=1, ended="failed", step_seconds=()),
            Conversation(turns=1, ended="failed", step_seconds=(), lost=("killed by signal 9", "killed by signal 9")),
        ),
    )


def test_the_metrics_of_a_step() -> None:
    metrics = conversation_metrics([played()])
    assert metrics == pytest.approx(
        {
            "conversation/calls": 1.0,
            "conversation/turns_mean": 2.0,
            "conversation/turns_max": 4.0,
            "conversation/heard_share": 0.5,
            "conversation/broken_tokens": 2.0,
            "conversation/restarts": 2.0,
            "conversation/ended_done_share": 0.25,
            "conversation/ended_other_end_share": 0.0,
            "conversation/ended_turns_share": 0.0,
            "conversation/ended_tokens_share": 0.25,
            "conversation/ended_cut_share": 0.0,
            "conversation/ended_failed_share": 0.5,
            "environment/timeouts": 1.0,
            "environment/deaths": 1.0,
            "environment/step_s_p50": 0.3,
            "environment/step_s_p95": 0.48,
        }
    )
    assert all(find_metric(name) for name in metrics)


def test_a_number_of_any_name_is_a_metric_that_can_be_written() -> None:
    numbers = (("tool calls", 3.0), ("tool/calls", 1.0), ("win_rate%", 0.5), ("", 2.0))
    report = replace(
        make_report(0, 3, [10, 20]),
        heard_tokens=np.zeros(2, np.int32),
        conversations=(Conversation(turns=1, ended="done", step_seconds=(), metrics=numbers),) * 2,
    )
    metrics = conversation_metrics([report])
    assert check_metrics(metrics) == metrics
    assert all(find_metric(name) for name in metrics)
    assert {name: metrics[name] for name in metrics if name.startswith(("conversation/tool", "conversation/win"))} == {
        "conversation/tool_calls": 4.0,
        "conversation/win_rate_": 0.5,
    }
    assert metrics["conversation/_"] == 2.0


def test_without_an_environment_there_are_no_metrics() -> None:
    assert conversation_metrics([make_report(0, 3, [10, 20])]) == {}


def test_a_failure_or_a_loss_is_reported_once_for_each_reason() -> None:
    report = played()
    reasons = ("", "", "step took 30 s", "ValueError: no")
    verdicts = tuple(replace(verdict, reason=reason) for verdict, reason in zip(report.verdicts, reasons, strict=True))
    known: set[str] = set()
    events = list(environment_events(replace(report, verdicts=verdicts), known))
    assert [(event.kind, event.message) for event in events] == [
        ("environment_failed", "step took 30 s"),
        ("environments_lost", "killed by signal 9"),
        ("environment_failed", "ValueError: no"),
    ]
    assert list(environment_events(replace(report, verdicts=verdicts), known)) == []
