"""Saving while training goes on.

save ──► learners write (training waits) ──► hash, fsync, rename, read back, remove older (a thread)
                                                   │ meanwhile the next steps are trained
next save, drain ──────── wait ◄───────────────────┘
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from maspo_dist.config import CheckpointConfig
from maspo_dist.runs.checkpoint import LEARNER_FOLDER, CheckpointStore, RunState, score_of
from maspo_dist.types import FinishedGroup, RolloutGroup


class CheckpointWriter:
    """Writes the checkpoints of a run, at most one at a time. All methods belong to one event loop.

    A failed write (a full disk) loses that checkpoint, not the run: `on_failure(step, what happened)` is called.
    """

    def __init__(
        self,
        store: CheckpointStore,
        config: CheckpointConfig,
        config_yaml: str,
        on_failure: Callable[[int, str], None],
    ) -> None:
        self._store = store
        self._config = config
        self._config_yaml = config_yaml
        self._on_failure = on_failure
        self._committing: asyncio.Task[None] | None = None

    async def save(
        self,
        state: RunState,
        finished: Sequence[FinishedGroup[RolloutGroup]],
        write_learners: Callable[[Path], Awaitable[None]],
    ) -> float:
        """Saves `state` and what `write_learners` writes into its folder; returns the seconds that training waited.

        The checkpoint counts only once `drain` or the next `save` has returned. `state` and the learners must be of
        the same moment: nothing may train before this returns.
        """
        started_s = time.perf_counter()
        await self.drain()
        part: Path | None = None
        try:
            part = await asyncio.to_thread(self._store.begin, state.step)
            await write_learners((part / LEARNER_FOLDER).resolve())
        except OSError as error:
            if part is not None:
                # On a full disk, the logs need the space of the unfinished checkpoint.
                await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            self._on_failure(state.step, str(error))
        else:
            content = (part, state, finished, self._config.keep, self._config_yaml)
            self._committing = asyncio.create_task(self._attempt(state.step, self._store.commit, *content))
        return time.perf_counter() - started_s

    async def score(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Records the score of the policy after `step`, for `keep_best`; metrics without that score change nothing.

        Call it once the step has been evaluated, before or after its `save`.
        """
        score = score_of(metrics, self._config.keep_best)
        if score is not None:
            await self._attempt(step, self._store.record_score, step, score)

    async def drain(self) -> None:
        """Waits until the last checkpoint is saved or has failed. Cancelling the wait does not cancel the save."""
        if self._committing is not None:
            await asyncio.shield(self._committing)
            self._committing = None

    async def _attempt(self, step: int, write: Callable[..., object], *arguments: object) -> None:
        try:
            await asyncio.to_thread(write, *arguments)
        except OSError as error:
            self._on_failure(step, str(error))
