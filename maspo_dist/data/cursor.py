"""The order in which training takes prompts: one seeded shuffle per epoch, which can resume at any prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from maspo_dist.errors import DataError
from maspo_dist.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorState:
    """The place of the next prompt, for JSON. `data_digest` identifies the prompts."""

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
                "the training data differs from the checkpoint's, so the place in the epoch is lost; "
                "restore the data, or start a new run"
            )
        if state is not None and state.seed != seed:
            raise DataError(f"the checkpoint was made with run.seed {state.seed}, not {seed}; set it back to resume")
        #: Prompts taken so far, over all epochs.
        self._taken = self._index(state) if state else 0
        self._shuffled: tuple[int, NDArray[np.int64]] | None = None

    @property
    def state(self) -> CursorState:
        """The position of the next prompt."""
        epoch, position = divmod(self._taken, len(self._prompts))
        return CursorState(seed=self._seed, epoch=epoch, position=position, data_digest=self._digest)

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts; at the end of an epoch the next epoch begins."""
        first, self._taken = self._taken, self._taken + count
        return [self._prompt(index) for index in range(first, self._taken)]

    def at(self, state: CursorState) -> Prompt:
        """The prompt that `take(1)` returns when the cursor is at `state`."""
        return self._prompt(self._index(state))

    def _index(self, state: CursorState) -> int:
        return state.epoch * len(self._prompts) + state.position

    def _prompt(self, index: int) -> Prompt:
        epoch, position = divmod(index, len(self._prompts))
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
        return self._prompts[int(self._shuffled[1][position])]


def _digest(prompts: Sequence[Prompt]) -> str:
    """Of ids and tokens, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{prompt.prompt_id}\0{prompt.token_ids.size}\0".encode())
        digest.update(prompt.token_ids.tobytes())
    return digest.hexdigest()[:16]
