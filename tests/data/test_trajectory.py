"""A response of several turns is put together from them without a change of a token."""

from __future__ import annotations

import numpy as np

from maspo_dist.data.trajectory import Trajectory, turn_rows
from maspo_dist.flow.seeds import group_seed, turn_seed
from maspo_dist.types import Conversation, Rollout, TurnRow


def turn(ids: list[int], versions: tuple[tuple[int, int], ...], text: str = "") -> Rollout:
    return Rollout(
        response_ids=np.asarray(ids, np.int32),
        behavior_logprobs=-np.asarray(ids, np.float32),
        text=text,
        finish_reason="stop",
        token_versions=versions,
    )


def ids(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


def test_three_turns_and_what_was_heard_make_one_response() -> None:
    trajectory = Trajectory(ids(90, 91), limit=12)
    assert (trajectory.turns, trajectory.room, trajectory.reward) == (0, 12, None)
    trajectory.say(turn([1, 2], ((3, 2),)))
    trajectory.hear(ids(50, 51, 52))
    assert trajectory.token_ids.tolist() == [90, 91, 1, 2, 50, 51, 52]
    assert trajectory.room == 7
    trajectory.say(turn([3], ((3, 1),)))
    trajectory.give(0.25)
    trajectory.hear(ids(53))
    trajectory.say(turn([4, 5, 6], ((3, 1), (4, 2)), "end"))
    trajectory.give(0.5)
    assert trajectory.room == 2
    rollout = trajectory.rollout("stop")
    assert rollout.response_ids.tolist() == [1, 2, 50, 51, 52, 3, 53, 4, 5, 6]
    assert rollout.response_ids.dtype == np.int32
    assert rollout.heard == ((2, 5), (6, 7))
    assert rollout.behavior_logprobs.tolist() == [-1, -2, -3, -4, -5, -6]
    assert rollout.token_versions == ((3, 4), (4, 2))
    assert rollout.turn_rewards == (0.0, 0.25, 0.5)
    assert (rollout.text, rollout.finish_reason, trajectory.reward) == ("end", "stop", 0.75)


def test_one_turn_is_the_rollout_of_the_engine() -> None:
    trajectory = Trajectory(ids(90), limit=4)
    said = turn([1, 2], ((0, 2),), "text")
    trajectory.say(said)
    rollout = trajectory.rollout("stop")
    assert rollout.response_ids.tolist() == [1, 2]
    assert (rollout.heard, rollout.turn_rewards, rollout.token_versions) == ((), (), ((0, 2),))


def test_the_first_turn_keeps_the_seed_of_its_response_and_later_turns_have_their_own() -> None:
    assert turn_seed(7, 0) == 7
    assert turn_seed(7, 1) == group_seed(7, 1)
    seeds = {turn_seed(seed, number) for seed in range(50) for number in range(8)}
    assert len(seeds) == 50 * 8
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_turns_of_a_response_as_text() -> None:
    trajectory = Trajectory(ids(90), limit=12)
    for said, heard, reward in (([1, 2], ids(50), None), ([3], ids(51, 52), 0.5), ([4], ids(), None)):
        trajectory.say(turn(said, ((0, len(said)),)))
        trajectory.give(reward)
        trajectory.hear(heard)
    conversation = Conversation(turns=3, ended="tokens", step_seconds=(0.25, 0.5))
    rows = turn_rows(trajectory.rollout("length"), conversation, lambda some: " ".join(map(str, some)))
    assert rows == (
        TurnRow(said="1 2", heard="50", reward=0.0, seconds=0.25),
        TurnRow(said="3", heard="51 52", reward=0.5, seconds=0.5),
        TurnRow(said="4", heard="", reward=0.0, seconds=None),
    )
    assert turn_rows(turn([1], ((0, 1),)), None, str) == ()
