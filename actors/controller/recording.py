"""Records steps for `maspo-dist replay`: see `maspo_dist.runs.step_record`."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.interfaces import Body, LearnerGroup
from maspo_dist.errors import BodyLostError
from maspo_dist.runs.checkpoint import LEARNER_FOLDER
from maspo_dist.runs.rows import Event
from maspo_dist.runs.step_record import StepRecord, StepRecords
from maspo_dist.types import RolloutGroup, TrainingBatch, UpdateReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class StepRecorder:
    """Updates the learners, and records the inputs and results of each update.

    A record that cannot be written (a full disk, a group lost with its node) costs the record, not the run.
    """

    learners: LearnerGroup
    records: StepRecords
    config_yaml: str
    fetch: Callable[[Body], Awaitable[RolloutGroup]]
    on_event: Callable[[Event], None]

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        """See `LearnerGroup.update`."""
        part = await self._begin(batch.step)
        report = await self.learners.update(batch, bodies)
        if part is not None:
            logprobs = tuple(await self.learners.frozen_logprobs())
            try:
                groups = tuple([await self.fetch(body) for body in bodies.values()])
                record = StepRecord(batch=batch, groups=groups, logprobs=logprobs, metrics=report.metrics)
                await asyncio.to_thread(self.records.commit, part, record, self.config_yaml)
            except (OSError, BodyLostError) as error:
                await self._failed(batch.step, part, error)
        return report

    async def _begin(self, step: int) -> Path | None:
        part: Path | None = None
        try:
            part = await asyncio.to_thread(self.records.begin, step)
            await self.learners.save((part / LEARNER_FOLDER).resolve())
        except OSError as error:
            await self._failed(step, part, error)
            return None
        return part

    async def _failed(self, step: int, part: Path | None, error: OSError | BodyLostError) -> None:
        if part is not None:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
        self.on_event(Event(kind="record_failed", message=f"step {step}: {error}"))
        logger.warning("step %d was not recorded: %s", step, error)
