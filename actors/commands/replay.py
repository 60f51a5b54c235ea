"""Recomputes a recorded step in one CPU process, and compares the numbers with the record.

The same functions run on the same batch, weights and optimizer state. Ranks, ZeRO stages and micro-batches of the run
change the numbers by rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.engines.deepspeed.engine import DeepSpeedEngine
from actors.ray.on_node import free_port
from maspo_dist.config import load_config
from maspo_dist.runs.checkpoint import CONFIG_FILE, LEARNER_FOLDER
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.step_record import ResponseLogprobs, StepRecord, StepRecords
from maspo_dist.types import MiniBatch, TrainingBatch

#: Accepted difference, |recorded − recomputed| / max(|recorded|, 0.01), by dtype of the model.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
_SMALL = 0.01

#: Metrics of the machine, not of the step.
_MACHINE_METRICS = {"learner/tokens_per_s"}
#: Changes of a run's configuration for one CPU process.
_ON_ONE_CPU = (
    "learner.ranks=1",
    "learner.sequence_parallel=1",
    "learner.zero_stage=0",
    "learner.threads=null",
    "learner.offload_optimizer=none",
    "learner.offload_parameters=none",
    "learner.deepspeed={}",
    "model.device=cpu",
    "cluster.layout=separate",
    "sync.transport=auto",
    "logging.record_steps=all",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedNumber:
    """One number of a step. NaN where only one side has it."""

    name: str
    recorded: float
    recomputed: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Relative to what was recorded, or to 0.01 where that is smaller."""
        if math.isnan(self.recorded) and math.isnan(self.recomputed):
            return 0.0
        return abs(self.recomputed - self.recorded) / max(abs(self.recorded), _SMALL)

    @property
    def agrees(self) -> bool:
        return self.difference <= self.tolerance


def replay_step(run: Path, step: int) -> list[ReplayedNumber]:
    """Recomputes `step` of `run`: every metric of the learner, then the widest gaps of the frozen logprobs.

    The process must not have a process group of torch yet. Raises ConfigError where the step was not recorded.
    """
    folder = RunFolder.open_for_reading(run)
    records = StepRecords(folder.steps_path)
    record = records.read(step)
    config = load_config(records.path(step) / CONFIG_FILE, _ON_ONE_CPU)
    if config.model.attention == "flash_attention_2":
        config = config.model_copy(update={"model": config.model.model_copy(update={"attention": "auto"})})
    engine = DeepSpeedEngine(config, "cpu", 0, 1, f"tcp://127.0.0.1:{free_port()}")
    try:
        engine.load(records.path(step) / LEARNER_FOLDER)
        metrics = engine.update(
            merged_shards(record.batch),
            record.batch.loss_tokens,
            record.batch.loss_sequences,
            {group.group_id: group for group in record.groups},
        )
        logprobs = engine.frozen_logprobs()
    finally:
        engine.close()
    tolerance = TOLERANCE[config.model.dtype]
    names = sorted((record.metrics.keys() | metrics.keys()) - _MACHINE_METRICS)
    numbers = [
        ReplayedNumber(
            name=name,
            recorded=record.metrics.get(name, math.nan),
            recomputed=metrics.get(name, math.nan),
            tolerance=tolerance,
        )
        for name in names
    ]
    return numbers + list(_logprob_gaps(record, logprobs, tolerance))


def merged_shards(batch: TrainingBatch) -> tuple[MiniBatch, ...]:
    """The micro-batches of all ranks, as the shard of one rank."""
    return tuple(
        tuple(micro for shard in batch.shards for micro in shard[index] if micro)
        for index in range(len(batch.loss_tokens))
    )


def replay_lines(numbers: Sequence[ReplayedNumber]) -> Iterator[str]:
    """What `maspo-dist replay` prints: one line per number, differing numbers marked, and a summary."""
    width = max(len(number.name) for number in numbers)
    yield f"{'':{width}}{'recorded':>15}{'recomputed':>15}{'difference':>12}"
    for number in numbers:
        mark = "" if number.agrees else "  differs"
        values = f"{number.recorded:15.7g}{number.recomputed:15.7g}{number.difference:12.1e}"
        yield f"{number.name:{width}}{values}{mark}"
    differing = sum(not number.agrees for number in numbers)
    worst = max(numbers, key=lambda number: math.inf if math.isnan(number.difference) else number.difference)
    yield (
        f"{len(numbers) - differing} of {len(numbers)} numbers agree within {worst.tolerance:g}; "
        f"furthest apart is {worst.name}, by {worst.difference:.1e}"
    )


def _logprob_gaps(
    record: StepRecord, logprobs: Sequence[ResponseLogprobs], tolerance: float
) -> Iterator[ReplayedNumber]:
    """The token whose logprob is furthest from the record, for logπ_old and logπ_ref."""
    recomputed = {(entry.group_id, entry.sample): entry for entry in logprobs}
    for name in ("old", "ref"):
        pairs = [
            (getattr(entry, name), getattr(recomputed[entry.group_id, entry.sample], name))
            for entry in record.logprobs
            if getattr(entry, name) is not None
        ]
        if pairs:
            before, now = (np.concatenate(side) for side in zip(*pairs, strict=True))
            worst = int(np.abs(before - now).argmax())
            yield ReplayedNumber(
                name=f"logprobs/{name}, token furthest apart",
                recorded=float(before[worst]),
                recomputed=float(now[worst]),
                tolerance=tolerance,
            )
