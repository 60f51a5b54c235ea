"""The order in which training takes prompts: one seeded shuffle per epoch, resumable at any prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict

from maspo_dist.errors import DataError
from maspo_dist.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorState:
    """Position of a cursor in plain numbers and text, for JSON.

    `epoch` and `position` name the next prompt. `data_digest` identifies the prompts.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    seed: int
    epoch: int
    position: int
    data_digest: str


class PromptCursor:
    """An endless sequence of prompts: every epoch takes each prompt once, in an order drawn from (seed, epoch).

    A cursor made with the `state` of another cursor continues exactly where that cursor was.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, state: CursorState | None = None) -> None:
        """Raises DataError when there are no prompts, or `state` is of other prompts or another seed."""
        if not prompts:
            raise DataError("there are no prompts to train on")
        self._prompts = prompts
        self._seed = seed
        self._digest = _digest(prompts)
        if state is not None and state.data_digest != self._digest:
            raise DataError(
                "the training data differs from that of the checkpoint, so its place in the epoch is lost; "
                "restore the data, or start a new run"
            )
        if state is not None and state.seed != seed:
            raise DataError(f"the checkpoint was made with run.seed {state.seed}, not {seed}; set it back to resume")
        self._epoch = state.epoch if state else 0
        self._position = state.position if state else 0
        self._shuffled_epoch = -1
        self._last_shuffle: list[int] = []
        self._order = self._shuffled(self._epoch)

    @property
    def state(self) -> CursorState:
        """Where the cursor stands: after what `take` gave last."""
        return CursorState(seed=self._seed, epoch=self._epoch, position=self._position, data_digest=self._digest)

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts, on into following epochs where this one ends."""
        taken: list[Prompt] = []
        while len(taken) < count:
            if self._position == len(self._prompts):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._shuffled(self._epoch)
            end = min(len(self._prompts), self._position + count - len(taken))
            taken.extend(self._prompts[i] for i in self._order[self._position : end])
            self._position = end
        return taken

    def at(self, state: CursorState) -> Prompt:
        """The prompt that `take(1)` gave, or would give, where the cursor stands at `state`."""
        epoch, position = state.epoch, state.position
        if position == len(self._prompts):
            epoch, position = epoch + 1, 0
        return self._prompts[self._shuffled(epoch)[position]]

    def _shuffled(self, epoch: int) -> list[int]:
        if epoch != self._shuffled_epoch:
            self._shuffled_epoch = epoch
            self._last_shuffle = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts)).tolist()
        return self._last_shuffle


def _digest(prompts: Sequence[Prompt]) -> str:
    """Of ids and tokens, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.prompt_id}\0{prompt.token_ids.size}\0".encode())
        digest.update(prompt.token_ids.tobytes())
    return digest.hexdigest()[:16]
