"""One response turn by turn: as it grows, and as text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from maspo_dist.types import Conversation, FinishReason, IntArray, Rollout, TurnRow


class Trajectory:
    """The tokens after a prompt: turns that were sampled, and what was heard between them; `limit` bounds all."""

    def __init__(self, prompt_ids: IntArray, limit: int) -> None:
        self._prompt_ids = prompt_ids
        self._limit = limit
        self._turns: list[Rollout] = []
        self._rewards: list[float | None] = []
        #: What was heard before each turn; nothing before the first.
        self._heard: list[IntArray] = []
        self._pending = np.zeros(0, np.int32)

    @property
    def turns(self) -> int:
        return len(self._turns)

    @property
    def room(self) -> int:
        """How many more tokens fit."""
        return self._limit - (self.token_ids.size - self._prompt_ids.size)

    @property
    def token_ids(self) -> IntArray:
        """i32, the prompt and everything after it: what the engine continues."""
        after = [
            ids for heard, turn in zip(self._heard, self._turns, strict=True) for ids in (heard, turn.response_ids)
        ]
        return np.concatenate([self._prompt_ids, *after, self._pending])

    @property
    def reward(self) -> float | None:
        """The sum of the turns' rewards; None where no turn was given any."""
        given = [reward for reward in self._rewards if reward is not None]
        return sum(given) if given else None

    def say(self, turn: Rollout) -> None:
        """Appends a sampled turn, which has no reward yet."""
        self._turns.append(turn)
        self._rewards.append(None)
        self._heard.append(self._pending)
        self._pending = np.zeros(0, np.int32)

    def give(self, reward: float | None) -> None:
        """The reward of the last turn."""
        self._rewards[-1] = reward

    def hear(self, token_ids: IntArray) -> None:
        """Appends what was heard after the last turn. Another turn must follow."""
        self._pending = token_ids

    def rollout(self, finish_reason: FinishReason) -> Rollout:
        """The whole response."""
        runs, end = [], 0
        for heard, turn in zip(self._heard, self._turns, strict=True):
            if heard.size:
                runs.append((end, end + heard.size))
            end += heard.size + turn.response_ids.size
        versions = [run for turn in self._turns for run in turn.token_versions]
        merged = itertools.groupby(versions, key=lambda run: run[0])
        return Rollout(
            response_ids=self.token_ids[self._prompt_ids.size :],
            behavior_logprobs=np.concatenate([turn.behavior_logprobs for turn in self._turns]),
            text=self._turns[-1].text,
            finish_reason=finish_reason,
            token_versions=tuple((version, sum(tokens for _, tokens in same)) for version, same in merged),
            heard=tuple(runs),
            turn_rewards=() if self.reward is None else tuple(reward or 0.0 for reward in self._rewards),
        )


def turn_rows(
    rollout: Rollout, conversation: Conversation | None, decode: Callable[[Sequence[int]], str]
) -> tuple[TurnRow, ...]:
    """The turns of a response; empty where it is a single turn."""
    if not rollout.heard:
        return ()
    ids = rollout.response_ids.tolist()
    # A run that is empty ends the response: nothing is heard after the last turn.
    runs = [*rollout.heard, (len(ids), len(ids))]
    seconds = conversation.step_seconds if conversation else ()
    rows, start = [], 0
    for number, (end, next_start) in enumerate(runs):
        rows.append(
            TurnRow(
                said=decode(ids[start:end]),
                heard=decode(ids[end:next_start]),
                reward=rollout.turn_rewards[number] if rollout.turn_rewards else None,
                seconds=seconds[number] if number < len(seconds) else None,
            )
        )
        start = next_start
    return tuple(rows)
