"""Every metric and every kind of event is in the catalogue, once and explained."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import torch
from doubles.loop import FakeLearners, FakePool, make_config, make_controller
from doubles.run_folders import write_run

from maspo_dist.algorithm import correction_metrics, correction_weights, trust_region_metrics, trust_region_totals
from maspo_dist.algorithm.diagnostics import BUCKETS, SIGNS
from maspo_dist.config import ClipLoss, CorrectionConfig, MaspoLoss
from maspo_dist.runs.catalogue import EVENTS, LIVE_METRICS, METRICS, PLACEHOLDERS, find_metric, labelled
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.rows import EventKind
from maspo_dist.views.console import open_console


def unknown(names: set[str]) -> set[str]:
    return {name for name in names if find_metric(name) is None}


def names_in(folder: RunFolder) -> set[str]:
    return {name for row in folder.read_metrics() for name in row if name != "step"}


def test_every_entry_stands_once_and_is_explained() -> None:
    metrics = (*METRICS, *LIVE_METRICS)
    for names in ([metric.name for metric in metrics], [metric.prometheus for metric in metrics]):
        assert [name for name, count in Counter(names).items() if count > 1] == []
    assert all(metric.unit and metric.meaning for metric in metrics)
    assert all(PLACEHOLDERS.values())
    assert all(EVENTS.values())


def test_every_kind_of_event_is_explained() -> None:
    assert set(EVENTS) == set(get_args(EventKind))


def test_every_placeholder_is_explained_and_used() -> None:
    used = {f"<{part.split('>')[0]}>" for metric in (*METRICS, *LIVE_METRICS) for part in metric.name.split("<")[1:]}
    assert used == set(PLACEHOLDERS)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("eval/aime24/avg@16", "eval/<set>/avg@<k>"),
        ("gate/share_below_0.99", "gate/share_below_0.99"),
        ("trust_region/neg/1e-4/kl_k3", "trust_region/<sign>/<bucket>/kl_k3"),
        ("eval/aime24/avg@k", None),
        ("gate/share_below_0x99", None),
        ("reward/mean/more", None),
    ],
)
def test_the_name_of_a_metric_is_found_in_the_catalogue(name: str, entry: str | None) -> None:
    found = find_metric(name)
    assert (found.name if found else None) == entry


@pytest.mark.parametrize(
    ("name", "exported", "labels"),
    [
        ("reward/mean", "maspo_reward_mean", ()),
        ("time/step_s", "maspo_time_step_seconds", ()),
        ("rollout/tokens_per_s", "maspo_rollout_tokens_per_second", ()),
        ("rollout/tokens", "maspo_rollout_tokens_total", ()),
        ("gate/share_below_0.99", "maspo_gate_share_below_0_99", ()),
        ("eval/aime24/avg@16", "maspo_eval_avg", (("set", "aime24"), ("k", "16"))),
        ("ratio/max_token/gate", "maspo_ratio_token_gate", (("end", "max"),)),
        ("trust_region/neg/1e-4/kl_k3", "maspo_trust_region_kl_k3", (("sign", "neg"), ("bucket", "1e-4"))),
        ("verdicts/timeout", "maspo_verdicts_total", (("status", "timeout"),)),
        ("last_step/timestamp_s", "maspo_last_step_timestamp_seconds", ()),
        ("engine/rollout worker 0/preemptions", "maspo_engine_preemptions_total", (("worker", "rollout worker 0"),)),
        ("novelty/bonus", "maspo_novelty_bonus", ()),
    ],
)
def test_what_a_metric_is_called_in_prometheus(name: str, exported: str, labels: tuple[tuple[str, str], ...]) -> None:
    metric, values = labelled(name)
    assert (metric.prometheus, tuple(zip(metric.labels, values, strict=True))) == (exported, labels)


def test_every_name_in_prometheus_is_one_that_it_accepts() -> None:
    names = [metric.prometheus for metric in (*METRICS, *LIVE_METRICS)]
    assert [name for name in names if not re.fullmatch(r"maspo(_[a-z0-9]+)+", name)] == []


async def test_a_run_of_the_loop_leaves_no_name_outside_the_catalogue(tmp_path: Path) -> None:
    config = make_config(evaluation={"every": 2}, checkpoint={"every": 1})
    with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
        assert await make_controller(config, folder, FakePool(), FakeLearners(), console).run(None)
    names = names_in(folder)
    assert {"time/checkpoint_s", "time/evaluate_s", "eval/held_out/avg@1", "rollout/tokens_per_s"} <= names
    assert unknown(names) == set()


@pytest.mark.parametrize("loss", [MaspoLoss(negative_ratio_cap=3.0), ClipLoss()])
def test_the_trust_region_has_no_name_outside_the_catalogue(loss: MaspoLoss | ClipLoss) -> None:
    old = torch.tensor([-12.0, -6.0, -3.0, -1.0, -0.5, -0.01] * 2)
    advantages = torch.tensor([1.0] * 6 + [-1.0] * 6)
    totals = trust_region_totals(loss, old + 0.1, old, advantages, torch.ones(12), torch.ones(12))
    names = trust_region_metrics(loss, totals).keys()
    assert {f"trust_region/{sign}/{bucket}/kl_k3" for sign in SIGNS for bucket in BUCKETS} <= names
    assert unknown(set(names)) == set()
    assert all(bucket in PLACEHOLDERS["<bucket>"] for bucket in BUCKETS)


@pytest.mark.parametrize("kind", ["none", "tis", "icepop", "sequence_mask"])
def test_corrections_have_no_name_outside_the_catalogue(kind: str) -> None:
    config = CorrectionConfig.model_validate({"kind": kind})
    logprobs = torch.tensor([-1.0, -2.0])
    correction = correction_weights(config, logprobs, logprobs - 0.1, torch.tensor([0, 0]))
    assert unknown(set(correction_metrics(config, correction.totals))) == set()


def test_the_folders_that_reports_are_tested_on_hold_real_names(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=3)
    assert unknown(names_in(folder)) == set()
    assert {row["kind"] for row in folder.read_events()} <= EVENTS.keys()
