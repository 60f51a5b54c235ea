"""What a step records about the time of its generation, and about its responses."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from actors.bench.doubles import make_prompt, make_report, make_rollout, make_scored, make_verdict
from actors.controller.group_stream import Batch
from actors.controller.step_rows import generation_times, sample_rows
from actors.interfaces import Body
from maspo_dist.runs.rows import SampleRow
from maspo_dist.types import Conversation, ConversationEnd, FinishedGroup, Rollout, RolloutGroup

HOUR_S = 3600.0


def finished(group_id: int, sent_at_s: float | None, generated_at_s: float) -> FinishedGroup[Body]:
    """A group of two responses of 50 tokens."""
    verdicts = [make_verdict(reward) for reward in (0.0, 1.0)]
    report = make_report(group_id, 3, [50, 50], verdicts, version=0, at_s=generated_at_s)
    scored = make_scored(report, np.array([-1.0, 1.0], np.float32))
    return FinishedGroup(scored=scored, body=None, dropped=None, sent_at_s=sent_at_s)


def times(*groups: FinishedGroup[Body]) -> dict[str, float]:
    return generation_times(Batch(groups=groups, lost={}), HOUR_S, HOUR_S + 3.0, None)


def test_the_speed_of_generation_is_over_the_time_from_the_first_request_to_the_last_response() -> None:
    assert times(finished(0, HOUR_S, HOUR_S + 1.0), finished(1, HOUR_S + 0.5, HOUR_S + 2.0)) == {
        "time/generate_s": 2.0,
        "time/verify_s": 1.0,
        "rollout/tokens": 200.0,
        "rollout/tokens_per_s": 100.0,
    }


def test_the_speed_after_a_resume_leaves_out_groups_of_the_checkpoint_and_the_time_the_run_was_down() -> None:
    resumed = times(finished(0, None, 10.0), finished(1, HOUR_S, HOUR_S + 2.0))
    assert resumed["rollout/tokens"] == 200.0
    assert resumed["rollout/tokens_per_s"] == pytest.approx(50.0)


def test_a_batch_of_restored_groups_has_no_speed() -> None:
    assert "rollout/tokens_per_s" not in times(finished(0, None, 10.0), finished(1, None, 12.0))


def test_a_row_says_what_the_verifier_got_before_the_response_and_what_gave_the_reward() -> None:
    """The environment of the last three responses gave rewards, gave none, and failed."""
    prompt = replace(make_prompt(0), response_start="<think>")
    plain = make_rollout(2, 0)
    played = (replace(plain, turn_rewards=(1.0,)), plain, plain)
    ends: tuple[ConversationEnd, ...] = ("done", "done", "failed")
    conversations = tuple(Conversation(turns=1, ended=end, step_seconds=()) for end in ends)

    def rows(rollouts: tuple[Rollout, ...], conversations: tuple[Conversation, ...]) -> list[SampleRow]:
        report = make_report(0, 3, [2] * len(rollouts), [make_verdict(1.0)] * len(rollouts))
        advantages = np.ones(len(rollouts), np.float32)
        scored = make_scored(replace(report, conversations=conversations), advantages)
        group: FinishedGroup[Body] = FinishedGroup(scored=scored, body=None, dropped=None, sent_at_s=None)

        async def fetch(_: Body) -> RolloutGroup:
            return RolloutGroup(group_id=0, prompt=prompt, rollouts=rollouts)

        return asyncio.run(sample_rows(1, [group], fetch, str))

    written = rows((plain,), ()) + rows(played, conversations)
    assert [row.scored_by for row in written] == ["verifier", "environment", "verifier", "environment"]
    assert {row.response_start for row in written} == {"<think>"}
