"""The order in which training takes prompts: one seeded shuffle per epoch, which can resume at any prompt."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from maspo_dist.errors import DataError
from maspo_dist.types import Prompt

logger = logging.getLogger(__name__)

REFERENCES_CHANGED = (
    "the reference answers differ from the checkpoint's; from now on the rewards follow the new answers"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorState:
    """The place of the next prompt, for JSON. The digests identify the prompts and their references.

    `reference_digest` is empty in checkpoints of earlier releases.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    seed: int
    epoch: int
    position: int
    data_digest: str
    reference_digest: str = ""


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
        self._digest = _digest(
            f"{prompt.prompt_id}\0{prompt.token_ids.size}\0".encode() + prompt.token_ids.tobytes() for prompt in prompts
        )
        self._reference_digest = _digest(prompt.reference.encode() + b"\0" for prompt in prompts)
        if state is not None and state.data_digest != self._digest:
            raise DataError(
                "the training data differs from the checkpoint's, so the place in the epoch is lost; "
                "restore the data, or start a new run"
            )
        if state is not None and state.seed != seed:
            raise DataError(f"the checkpoint was made with run.seed {state.seed}, not {seed}; set it back to resume")
        #: Whether the prompts have other references than in the checkpoint.
        self.references_changed = state is not None and state.reference_digest not in ("", self._reference_digest)
        if self.references_changed:
            logger.warning("%s", REFERENCES_CHANGED)
        #: Prompts taken so far, over all epochs.
        self._taken = self._index(state) if state else 0
        self._shuffled: tuple[int, NDArray[np.int64]] | None = None

    @property
    def state(self) -> CursorState:
        """The position of the next prompt."""
        epoch, position = divmod(self._taken, len(self._prompts))
        return CursorState(
            seed=self._seed,
            epoch=epoch,
            position=position,
            data_digest=self._digest,
            reference_digest=self._reference_digest,
        )

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


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
