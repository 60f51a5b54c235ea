"""Training goes on while a checkpoint is saved; a failed save is reported and loses nothing else."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from maspo_dist.config import CheckpointConfig
from maspo_dist.data.cursor import CursorState
from maspo_dist.runs.checkpoint import CONFIG_FILE, CheckpointStore, CheckpointWriter, RunState, StreamState
from maspo_dist.runs.step_folders import damage_of, write_manifest
from maspo_dist.types import FinishedGroup, RolloutGroup


def state(step: int) -> RunState:
    cursor = CursorState(seed=0, epoch=0, position=0, data_digest="")
    return RunState(step=step, policy_version=step, stream=StreamState(next_group=0, cursor=cursor))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def write_learners(folder: Path) -> None:
    def write() -> None:
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"weights")

    await asyncio.to_thread(write)


class HeldStore(CheckpointStore):
    """Commits once `go` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go = threading.Event()
        self.commits = 0

    def commit(
        self,
        part: Path,
        state: RunState,
        finished: Sequence[FinishedGroup[RolloutGroup]],
        keep: int,
        config_yaml: str,
    ) -> Path:
        assert self.go.wait(30)
        self.commits += 1
        return super().commit(part, state, finished, keep, config_yaml)


class Failures:
    def __init__(self) -> None:
        self.reported: list[tuple[int, str]] = []

    def __call__(self, step: int, message: str) -> None:
        self.reported.append((step, message))


def make_writer(store: CheckpointStore, failures: Failures, **settings: object) -> CheckpointWriter:
    return CheckpointWriter(store, CheckpointConfig(every=1, **settings), "run: {}\n", failures)  # type: ignore[arg-type]


async def test_training_goes_on_while_a_checkpoint_is_completed(tmp_path: Path) -> None:
    store, failures = HeldStore(tmp_path), Failures()
    writer = make_writer(store, failures)
    await writer.save(state(1), (), write_learners)
    assert store.steps() == []
    second = asyncio.create_task(writer.save(state(2), (), write_learners))
    await asyncio.sleep(0.01)
    assert not (tmp_path / ".part-000002").exists(), "the second save began before the first was in place"
    store.go.set()
    await second
    await writer.drain()
    assert store.steps() == [1, 2]
    assert failures.reported == []
    assert damage_of(store.path(2)) is None
    assert (store.path(2) / CONFIG_FILE).read_text() == "run: {}\n"


async def test_a_checkpoint_slower_than_the_grace_of_a_stop_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for grace_s, warnings in ((60.0, 0), (1e-6, 1)):
        writer = make_writer(CheckpointStore(tmp_path / str(warnings)), Failures(), stop_grace_s=grace_s)
        for step in (1, 2):
            await writer.save(state(step), (), write_learners)
        await writer.drain()
        assert len([one for one in caplog.messages if "checkpoint.stop_grace_s is" in one]) == warnings


async def test_cancelling_the_wait_does_not_cancel_the_save(tmp_path: Path) -> None:
    store = HeldStore(tmp_path)
    writer = make_writer(store, Failures())
    await writer.save(state(1), (), write_learners)
    waiting = asyncio.create_task(writer.drain())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    store.go.set()
    await writer.drain()
    assert store.steps() == [1]


async def full_disk(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_is_reported_and_the_unfinished_checkpoint_is_removed(tmp_path: Path) -> None:
    store, failures = CheckpointStore(tmp_path), Failures()
    writer = make_writer(store, failures, keep=1)
    await writer.save(state(1), (), write_learners)
    await writer.save(state(2), (), full_disk)
    assert failures.reported == [(2, "[Errno 28] No space left on device")]
    assert names(tmp_path) == ["step-000001"]
    await writer.save(state(3), (), write_learners)
    await writer.drain()
    assert store.steps() == [3]


async def test_a_disk_error_after_the_learners_wrote_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, failures = CheckpointStore(tmp_path), Failures()
    writer = make_writer(store, failures)
    await writer.save(state(1), (), write_learners)
    await writer.drain()

    def fail(part: Path, on_progress: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("maspo_dist.runs.step_folders.write_manifest", fail)
    await writer.save(state(2), (), write_learners)
    await writer.drain()
    assert failures.reported == [(2, "[Errno 5] Input/output error")]
    assert names(tmp_path) == ["step-000001"]


async def test_an_old_checkpoint_that_cannot_be_removed_fails_no_save_and_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def remove(path: Path, ignore_errors: bool = False) -> None:
        if path.name == "step-000001" and not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        rmtree(path, ignore_errors)

    rmtree = shutil.rmtree
    monkeypatch.setattr("shutil.rmtree", remove)
    store, failures = CheckpointStore(tmp_path), Failures()
    writer = make_writer(store, failures, keep=2)
    for step in range(1, 7):
        await writer.save(state(step), (), write_learners)
        await writer.drain()
        assert writer.saved_step == step
    assert failures.reported == []
    assert store.steps() == [1, 5, 6]
    assert f"{store.path(1)} cannot be removed: [Errno 39] Directory not empty" in caplog.messages


async def test_a_score_that_the_disk_refuses_is_no_failed_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store, failures = CheckpointStore(tmp_path), Failures()
    writer = make_writer(store, failures)
    await writer.score(1, {"eval/x/avg@1": 0.5})
    monkeypatch.setattr("maspo_dist.runs.checkpoint.replace_text", full)
    await writer.score(2, {"eval/x/avg@1": 0.9})
    await writer.save(state(1), (), write_learners)
    await writer.drain()
    assert failures.reported == []
    assert writer.saved_step == 1
    assert "the score of step 2 is not kept: [Errno 28] No space left on device" in caplog.messages


async def test_a_save_makes_progress_with_each_file_and_each_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maspo_dist.runs.step_folders._BLOCK_BYTES", 1)
    (tmp_path / "weights.bin").write_bytes(b"weights")
    seen: list[str] = []
    write_manifest(tmp_path, lambda: seen.append("written"))
    assert damage_of(tmp_path, lambda: seen.append("read")) is None
    assert seen == ["written"] * 8 + ["read"] * 7

    writer = make_writer(CheckpointStore(tmp_path / "store"), Failures())
    began_s = asyncio.get_running_loop().time()
    await writer.save(state(1), (), write_learners)
    await writer.drain()
    assert began_s <= writer.begun_s <= writer.last_progress_s <= asyncio.get_running_loop().time()


@pytest.mark.parametrize("scored_first", [True, False])
async def test_the_best_is_kept_whether_scored_before_or_after_its_save(tmp_path: Path, scored_first: bool) -> None:
    store = CheckpointStore(tmp_path)
    writer = make_writer(store, Failures(), keep=1)

    def score(step: int, value: float) -> Callable[[], Awaitable[None]]:
        return lambda: writer.score(step, {"eval/x/avg@1": value, "reward/mean": 0.0})

    for step, value in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2)):
        if scored_first:
            await score(step, value)()
            await writer.save(state(step), (), write_learners)
        else:
            await writer.save(state(step), (), write_learners)
            await score(step, value)()
    await writer.score(4, {"reward/mean": 5.0})
    await writer.drain()
    assert store.steps() == [2, 4]
