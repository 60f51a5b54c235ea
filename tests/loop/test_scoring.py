"""From verdicts to rewards: shaping is added here, and stays visible among the components."""

from __future__ import annotations

import numpy as np
import pytest

from actors.scoring import score_group
from maspo_dist.config import AlgorithmConfig
from maspo_dist.flow.batch_metrics import batch_metrics
from maspo_dist.types import GroupReport, Verdict, VerdictStatus


def verdict(reward: float, status: VerdictStatus, *components: tuple[str, float]) -> Verdict:
    return Verdict(reward=reward, status=status, extracted=None, seconds=0.0, components=components)


def group(*verdicts: Verdict, tokens: list[int]) -> GroupReport:
    return GroupReport(
        group_id=1, attempt=0, worker="w", prompt_tokens=3, response_tokens=np.asarray(tokens, np.int32),
        truncated=np.asarray([count >= 100 for count in tokens], np.bool_),
        oldest_version=np.zeros(len(tokens), np.int32), version_tokens=((0, sum(tokens)),), verdicts=verdicts,
        generated_at_s=0.0, scored_at_s=0.0,
    )  # fmt: skip


def config(**overlong: float | bool) -> AlgorithmConfig:
    return AlgorithmConfig.model_validate({"overlong": overlong, "max_policy_age": 1})


def test_the_overlong_penalty_is_part_of_the_reward_and_one_of_its_components() -> None:
    report = group(
        verdict(1.0, "correct", ("math", 1.0), ("format", 1.0)), verdict(1.0, "correct"), tokens=[50, 90]
    )  # fmt: skip

    scored = score_group(report, config(buffer_tokens=20, penalty=1.0), max_response_tokens=100)

    assert scored.rewards.tolist() == [1.0, 0.5]
    first, second = scored.report.verdicts
    assert dict(first.components) == {"math": 1.0, "format": 1.0, "overlong": 0.0}
    assert dict(second.components) == {"overlong": -0.5}
    metrics = batch_metrics([scored], policy_version=0)
    assert metrics["reward/component/overlong"] == pytest.approx(-0.25)
    assert metrics["reward/component/math"] == 1.0


def test_without_a_buffer_nothing_is_added() -> None:
    scored = score_group(group(verdict(1.0, "correct"), tokens=[100]), config(), max_response_tokens=100)

    assert scored.rewards.tolist() == [1.0]
    assert scored.report.verdicts[0].components == ()


def test_a_sample_without_a_verdict_neither_trains_nor_counts() -> None:
    report = group(verdict(1.0, "correct"), verdict(0.0, "timeout"), verdict(0.0, "wrong"), tokens=[5, 5, 5])

    scored = score_group(report, config(), max_response_tokens=100)

    assert scored.trainable.tolist() == [True, False, True]
    assert scored.advantages.tolist() == pytest.approx([0.7071, 0.0, -0.7071], abs=1e-4)
