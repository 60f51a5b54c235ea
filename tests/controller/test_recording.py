"""Steps are recorded during training; a record that cannot be written does not fail the run."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from doubles.loop import FakeLearners, FakePool, make_config, make_prompt

from actors.controller.recording import StepRecorder
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.errors import ConfigError
from maspo_dist.runs.checkpoint import LEARNER_FOLDER
from maspo_dist.runs.rows import Event
from maspo_dist.runs.step_folders import write_manifest
from maspo_dist.runs.step_record import ResponseLogprobs, StepRecords
from maspo_dist.types import RolloutGroup, RolloutRequest, Sampling, ScoredGroup, TrainingBatch


class Recordable(FakeLearners):
    """Has room for the first `saves` saves."""

    def __init__(self, saves: int = 100) -> None:
        super().__init__()
        self._saves = saves

    async def save(self, folder: Path) -> None:
        self._saves -= 1
        if self._saves < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().save(folder)

    async def frozen_logprobs(self) -> list[ResponseLogprobs]:
        return [ResponseLogprobs(group_id=7, sample=0, old=np.full(2, -0.5, np.float32), ref=None)]


async def batch_of_one(step: int) -> tuple[TrainingBatch, dict[int, RolloutGroup]]:
    request = RolloutRequest(
        group_id=7,
        prompt=make_prompt(1),
        num_samples=2,
        sampling=Sampling(temperature=1.0, max_response_tokens=8),
        seed=0,
    )
    report, body = await FakePool().generate(request)
    scored = ScoredGroup(
        report=report,
        rewards=np.asarray([0, 1], np.float32),
        advantages=np.asarray([-1, 1], np.float32),
        trainable=np.asarray([True, True]),
    )
    batch = lay_out_batch(step, [scored], mini_batches=1, ranks=1, micro_batch_tokens=64)
    return batch, {7: body}


def recording(folder: Path, learners: Recordable, keep: int | None, events: list[Event]) -> StepRecorder:
    return StepRecorder(learners, StepRecords(folder, keep), "run: {}\n", FakePool().fetch, events.append)


async def test_a_step_is_recorded_completely_and_older_steps_are_removed(tmp_path: Path) -> None:
    events: list[Event] = []
    learners = recording(tmp_path / "steps", Recordable(), 2, events)
    for step in (1, 2, 3):
        report = await learners.update(*await batch_of_one(step))
        assert report.step == step
    records = StepRecords(tmp_path / "steps")
    assert list(records.steps()) == [2, 3]
    record = records.read(3)
    assert record.batch.step == 3
    assert [group.group_id for group in record.groups] == [7]
    assert record.metrics == {"learner/grad_norm": 1.0}
    assert record.logprobs[0].old.tolist() == [-0.5, -0.5]
    assert (records.path(3) / LEARNER_FOLDER).is_dir()
    assert events == []


async def test_a_full_disk_costs_the_record_and_not_the_step(tmp_path: Path) -> None:
    events: list[Event] = []
    learners = recording(tmp_path / "steps", Recordable(saves=1), None, events)
    for step in (1, 2):
        assert (await learners.update(*await batch_of_one(step))).policy_version == step
    assert [(event.kind, event.message) for event in events] == [
        ("record_failed", "step 2: [Errno 28] No space left on device")
    ]
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["step-000001"]


async def test_a_resumed_run_replaces_the_records_of_repeated_steps(tmp_path: Path) -> None:
    learners = recording(tmp_path / "steps", Recordable(), 2, [])
    for step in (1, 2, 3, 4):
        await learners.update(*await batch_of_one(step))
    (tmp_path / "steps" / ".part-000005").mkdir()
    await learners.update(*await batch_of_one(3))
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["step-000003"]


async def test_a_damaged_record_is_refused_with_the_damaged_file(tmp_path: Path) -> None:
    learners = recording(tmp_path / "steps", Recordable(), None, [])
    await learners.update(*await batch_of_one(1))
    (tmp_path / "steps" / "step-000001" / "record.pickle").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"step-000001 is damaged: record\.pickle has 0 bytes"):
        StepRecords(tmp_path / "steps").read(1)


async def test_a_record_from_before_heard_tokens_is_refused(tmp_path: Path) -> None:
    learners = recording(tmp_path / "steps", Recordable(), None, [])
    await learners.update(*await batch_of_one(1))
    file = tmp_path / "steps" / "step-000001" / "record.pickle"
    file.write_bytes(file.read_bytes().partition(b"\n")[2])
    (file.parent / "manifest.json").unlink()
    write_manifest(file.parent)
    with pytest.raises(ConfigError, match=r"another version of maspo_dist \(its records have shape none, .* replay"):
        StepRecords(tmp_path / "steps").read(1)


@pytest.mark.parametrize(("text", "kept"), [("none", 0), ("all", None), ("last:3", 3)])
def test_record_steps_sets_how_many_records_are_kept(text: str, kept: int | None) -> None:
    assert make_config(logging={"record_steps": text}).logging.recorded_steps == kept


@pytest.mark.parametrize("text", ["last", "last:0", "last:-1", "3", "some"])
def test_other_values_of_record_steps_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="record_steps must be none, all, or last:K with K of at least 1, got"):
        make_config(logging={"record_steps": text})
