"""From verdicts to rewards, advantages and what is trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.controller.group_stream import Batch
from actors.controller.step_rows import batch_metrics
from maspo_dist.algorithm import score_group
from maspo_dist.config import AlgorithmConfig
from maspo_dist.runs.metrics import check_metrics
from maspo_dist.types import LARGEST_REWARD, FinishedGroup, GroupReport, ScoredGroup, Verdict, VerdictStatus

LIMIT = 100


def scored(verdicts: list[tuple[float, VerdictStatus]], tokens: list[int], **algorithm: Any) -> ScoredGroup:
    """Responses of LIMIT tokens are truncated."""
    lengths = np.array(tokens, dtype=np.int32)
    report = GroupReport(
        group_id=0,
        prompt_tokens=3,
        response_tokens=lengths,
        truncated=lengths == LIMIT,
        oldest_version=np.zeros(lengths.size, dtype=np.int32),
        version_tokens=((0, int(lengths.sum())),),
        version_runs=np.ones(lengths.size, dtype=np.int32),
        verdicts=tuple(
            Verdict(reward=reward, status=status, extracted=None, seconds=0.0) for reward, status in verdicts
        ),
        generated_at_s=0.0,
        scored_at_s=0.0,
    )
    return score_group(report, AlgorithmConfig.model_validate(algorithm), LIMIT)


RIGHT: tuple[float, VerdictStatus] = (1.0, "correct")
WRONG: tuple[float, VerdictStatus] = (0.0, "wrong")


def test_advantages_are_relative_to_the_group() -> None:
    group = scored([RIGHT, WRONG], [5, 6])
    assert group.rewards.tolist() == [1, 0]
    assert group.advantages == pytest.approx([0.7071, -0.7071], abs=1e-4)
    assert group.trainable.tolist() == [True, True]
    assert scored([RIGHT, WRONG], [5, 6], advantage={"normalize_std": False}).advantages.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("normalize_std", [True, False])
def test_the_largest_rewards_of_many_turns_have_finite_advantages(normalize_std: bool) -> None:
    most = 10_000 * LARGEST_REWARD
    rewards: list[tuple[float, VerdictStatus]] = [(most, "correct"), (-most, "wrong"), (-most, "wrong")]
    group = scored(rewards, [5, 6, 7], advantage={"normalize_std": normalize_std})
    assert np.isfinite(group.advantages * np.float32(np.exp(20))).all()
    assert group.advantages[0] > 0 > group.advantages[1]


def test_a_long_response_pays_before_advantages_are_taken() -> None:
    group = scored([RIGHT, RIGHT], [90, 10], overlong={"buffer_tokens": 20, "penalty": 0.5})
    assert group.rewards.tolist() == [0.75, 1.0]
    assert group.advantages[0] < 0 < group.advantages[1]


@pytest.mark.parametrize("mask", [False, True])
def test_truncated_responses_are_masked_where_asked_and_keep_their_place_in_the_mean(mask: bool) -> None:
    group = scored([RIGHT, WRONG], [5, LIMIT], overlong={"mask_truncated": mask})
    assert group.trainable.tolist() == [True, not mask]
    assert group.advantages == pytest.approx([0.7071, -0.7071], abs=1e-4)


@pytest.mark.parametrize("status", ["timeout", "error"])
def test_what_could_not_be_verified_neither_trains_nor_counts(status: VerdictStatus) -> None:
    group = scored([RIGHT, WRONG, (1.0, status)], [5, 6, 7], advantage={"normalize_std": False})
    assert group.trainable.tolist() == [True, True, False]
    assert group.advantages.tolist() == [0.5, -0.5, 0]
    assert group.rewards[2] == 0


def test_the_overlong_penalty_stays_visible_among_the_components_of_the_reward() -> None:
    group = scored([RIGHT, RIGHT], [50, 90], overlong={"buffer_tokens": 20, "penalty": 1.0})
    assert [dict(verdict.components) for verdict in group.report.verdicts] == [{"overlong": 0.0}, {"overlong": -0.5}]
    finished = FinishedGroup(scored=group, body=None, dropped=None, sent_at_s=0.0)
    metrics = batch_metrics(Batch(groups=(finished,), lost={}), policy_version=0)
    assert metrics["reward/component/overlong"] == pytest.approx(-0.25)


def test_the_parts_of_a_reward_have_metrics_that_can_be_written_whatever_their_names_are() -> None:
    group = scored([RIGHT, WRONG], [5, 6])
    parts = (
        (("math", 1.0), ("python:my_mod:score", 0.5), ("https://host:80/score?v=1", 1.0), ("a b", 1.0), ("", 1.0)),
        (("math", 0.0), ("python:my_mod:score", 0.0), ("https://host:80/score?v=1", 0.5), ("a:b", 0.5), ("", 0.0)),
    )
    verdicts = (replace(one, components=of) for one, of in zip(group.report.verdicts, parts, strict=True))
    group = replace(group, report=replace(group.report, verdicts=tuple(verdicts)))
    finished = FinishedGroup(scored=group, body=None, dropped=None, sent_at_s=0.0)
    metrics = batch_metrics(Batch(groups=(finished,), lost={}), policy_version=0)
    assert check_metrics(metrics) == metrics
    assert {name: value for name, value in metrics.items() if name.startswith("reward/component/")} == {
        "reward/component/math": 0.5,
        "reward/component/python_my_mod_score": 0.25,
        "reward/component/https_host_80_score_v_1": 0.75,
        "reward/component/a_b": 0.75,
        "reward/component/_": 0.5,
    }


def test_without_a_buffer_nothing_is_added() -> None:
    group = scored([RIGHT], [LIMIT])
    assert group.rewards.tolist() == [1.0]
    assert group.report.verdicts[0].components == ()
