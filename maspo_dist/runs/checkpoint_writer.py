"""Saving beside training.

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
from maspo_dist.runs.checkpoint import LEARNER_FOLDER, CheckpointStore, FinishedGroup, RunState, score_of


class CheckpointWriter:
    """Writes the checkpoints of a run, at most one at a time. All methods belong to one event loop.

    A failed write (a full disk) costs that checkpoint, not the run: `on_failure(step, what happened)`.
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
        self, state: RunState, finished: Sequence[FinishedGroup], write_learners: Callable[[Path], Awaitable[None]]
    ) -> float:
        """Saves `state` with what `write_learners` puts into the folder it is given; returns the seconds that
        training stood still. The checkpoint counts only once `drain` or the next `save` has returned.

        `state` and the learners must be of the same moment: nothing may train before this returns.
        """
        started_s = time.perf_counter()
        await self.drain()
        part: Path | None = None
        try:
            part = await asyncio.to_thread(self._store.begin, state.step)
            await write_learners((part / LEARNER_FOLDER).resolve())
        except OSError as error:
            if part is not None:
                # On a full disk, half a checkpoint is room that the logs need.
                await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            self._on_failure(state.step, str(error))
        else:
            self._committing = asyncio.create_task(self._commit(part, state, finished))
        return time.perf_counter() - started_s

    async def score(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Tells how the policy after `step` did, for `keep_best`; before or after its `save`, and only once the
        step has been evaluated. Metrics without the score change nothing.
        """
        score = score_of(metrics, self._config.keep_best)
        if score is not None:
            try:
                await asyncio.to_thread(self._store.record_score, step, score)
            except OSError as error:
                self._on_failure(step, str(error))

    async def drain(self) -> None:
        """Waits until the last checkpoint is in place, or has failed. A cancelled wait leaves it running."""
        if self._committing is not None:
            await asyncio.shield(self._committing)
            self._committing = None

    async def _commit(self, part: Path, state: RunState, finished: Sequence[FinishedGroup]) -> None:
        try:
            await asyncio.to_thread(self._store.commit, part, state, finished, self._config.keep, self._config_yaml)
        except OSError as error:
            self._on_failure(state.step, str(error))
