"""Recorded steps: what a batch was trained from, and the result, for `maspo-dist replay`.

steps/step-000012/   learner/      weights, optimizer state and schedule before the step
                     record.pickle batch, groups, frozen log-probabilities, metrics
                     config.yaml, manifest.json
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maspo_dist.errors import ConfigError
from maspo_dist.runs.checkpoint import CONFIG_FILE
from maspo_dist.runs.record_shape import RecordShapeError, dump_records, load_records
from maspo_dist.runs.step_folders import StepFolders, damage_of
from maspo_dist.types import FloatArray, RolloutGroup, TrainingBatch

_RECORD = "record.pickle"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseLogprobs:
    """logπ_old f32[S] and, with a reference, logπ_ref f32[S] of a response, before the batch's first update."""

    group_id: int
    sample: int
    old: FloatArray
    ref: FloatArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step. `groups` are the groups that `batch` refers to, `logprobs` has an entry per response of `batch`."""

    batch: TrainingBatch
    groups: tuple[RolloutGroup, ...]
    logprobs: tuple[ResponseLogprobs, ...]
    metrics: Mapping[str, float]


class StepRecords(StepFolders):
    """The newest `keep` recorded steps of a run, all for None. The learners save into `begin(step) / "learner"`."""

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        super().__init__(folder)
        self._keep = keep

    def commit(self, part: Path, record: StepRecord, config_yaml: str) -> Path:
        """Completes what `begin` started; removes the oldest steps and later ones, which a resumed run trains again."""
        content = dump_records(record, StepRecord, ResponseLogprobs)
        for step in self.steps():
            if step >= record.batch.step:
                shutil.rmtree(self.path(step))
        final = self.finish(part, record.batch.step, {_RECORD: content, CONFIG_FILE: config_yaml.encode()})
        if self._keep is not None:
            for step in self.steps()[: -self._keep]:
                shutil.rmtree(self.path(step))
        return final

    def read(self, step: int) -> StepRecord:
        """Raises ConfigError where the step was not recorded, or its record is damaged or of another version."""
        if step not in (steps := self.steps()):
            recorded = f"recorded are {', '.join(map(str, steps))}" if steps else "none is"
            raise ConfigError(f"step {step} was not recorded, {recorded}: set logging.record_steps to all or last:K")
        if (damage := damage_of(self.path(step))) is not None:
            raise ConfigError(f"the record {self.path(step)} is damaged: {damage}")
        try:
            record: StepRecord = load_records((self.path(step) / _RECORD).read_bytes(), StepRecord, ResponseLogprobs)
        except RecordShapeError as error:
            raise ConfigError(
                f"the record {self.path(step)} was written by another version of maspo_dist ({error}): replay the step "
                "with that version"
            ) from None
        return record
