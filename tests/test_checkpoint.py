"""A checkpoint is complete or absent; damage is noticed and passed over."""

from pathlib import Path

import pytest

from maspo_dist.checkpoint import CheckpointStore, PendingGroup, RunState, StreamState, damage_of, read_state
from maspo_dist.data.cursor import CursorState


def state(step: int) -> RunState:
    cursor = CursorState(seed=0, epoch=1, position=5, data_digest="abc")
    pending = (PendingGroup(group_id=step * 4 - 1, drawn_at=cursor, refilled=False),)
    stream = StreamState(next_group=step * 4, cursor=cursor, pending=pending, refills=1)
    return RunState(step=step, policy_version=step, stream=stream)


def save(store: CheckpointStore, step: int, keep: int = 10) -> Path:
    part = store.begin(step)
    (part / "learner").mkdir()
    (part / "learner" / "weights.bin").write_bytes(bytes(range(256)) * 10)
    return store.commit(part, state(step), (), keep)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 7)
    assert path.name == "step-000007"
    assert damage_of(path) is None
    assert read_state(path) == state(7)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        save(store, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def test_a_save_that_was_cut_off_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    good = save(store, 1)
    (store.begin(2) / "weights.bin").write_bytes(b"half")
    assert store.newest() == (good, [])


@pytest.mark.parametrize("name", ["learner/weights.bin", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_is_noticed_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    good, bad = save(store, 1), save(store, 2)
    file = bad / name
    content = file.read_bytes()
    if damage == "flip":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "cut":
        file.write_bytes(content[:-3])
    else:
        file.unlink()
    newest, passed_over = store.newest()
    assert newest == good
    assert len(passed_over) == 1
    assert passed_over[0].startswith("step-000002: ")


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").newest() == (None, [])
