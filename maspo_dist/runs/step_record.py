"""Recorded steps: all that a batch was trained from, and what came out, to look into afterwards.

steps/step-000012/   learner/      weights, optimizer state and schedule before the step
                     record.pickle batch, groups, frozen log-probabilities, metrics
                     config.yaml, manifest.json
"""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maspo_dist.errors import ConfigError
from maspo_dist.runs.checkpoint import CONFIG_FILE
from maspo_dist.runs.manifest import damage_of, write_manifest
from maspo_dist.types import FloatArray, RolloutGroup, TrainingBatch

_RECORD = "record.pickle"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseLogprobs:
    """Of one response, before the batch's first update: logπ_old f32[T] and, with a reference, logπ_ref f32[T]."""

    group_id: int
    sample: int
    old: FloatArray
    ref: FloatArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step. `groups` holds those that `batch` refers to, `logprobs` one entry for each of its responses."""

    batch: TrainingBatch
    groups: tuple[RolloutGroup, ...]
    logprobs: tuple[ResponseLogprobs, ...]
    metrics: Mapping[str, float]


class StepRecords:
    """The recorded steps of one run folder; `keep` newest, None keeps all."""

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self._folder = folder
        self._keep = keep

    def begin(self, step: int) -> Path:
        """An empty folder; the learners save into its `learner` folder before they train."""
        for leftover in self._folder.glob(".part-*"):
            shutil.rmtree(leftover)
        part = self._folder / f".part-{step:06d}"
        part.mkdir(parents=True)
        return part

    def commit(self, part: Path, record: StepRecord, config_yaml: str) -> Path:
        """Completes what `begin` started and removes the oldest beyond `keep`; later steps too, which are of a
        future that a resumed run gave up. Raises OSError when the disk does.
        """
        (part / _RECORD).write_bytes(pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL))
        (part / CONFIG_FILE).write_text(config_yaml, encoding="utf-8")
        write_manifest(part)
        final = self.path(record.batch.step)
        for step in self.steps():
            if step >= record.batch.step:
                shutil.rmtree(self.path(step))
        part.rename(final)
        if self._keep is not None:
            for step in self.steps()[: -self._keep]:
                shutil.rmtree(self.path(step))
        return final

    def steps(self) -> Sequence[int]:
        """Recorded steps, oldest first."""
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d{6,})", name)))

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def read(self, step: int) -> StepRecord:
        """Raises ConfigError where the step was not recorded, or its record is damaged."""
        steps = self.steps()
        if step not in steps:
            there = f"recorded are {', '.join(map(str, steps))}" if steps else "none is"
            raise ConfigError(f"step {step} was not recorded, {there}: set logging.record_steps to all or last:K")
        damage = damage_of(self.path(step))
        if damage is not None:
            raise ConfigError(f"the record {self.path(step)} is damaged: {damage}")
        record: StepRecord = pickle.loads((self.path(step) / _RECORD).read_bytes())
        return record
