"""Before a run resumes from a checkpoint, its configuration is compared with the configuration in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.loop import make_config

from actors.commands.training import _compare_config
from maspo_dist.config import dump_config
from maspo_dist.data.cursor import CursorState
from maspo_dist.errors import ConfigError
from maspo_dist.runs.checkpoint import CheckpointStore, RunState, StreamState
from maspo_dist.runs.folder import RunFolder


def save(folder: RunFolder, config_yaml: str) -> Path:
    store = CheckpointStore(folder.checkpoints_path)
    cursor = CursorState(seed=0, epoch=0, position=0, data_digest="")
    state = RunState(step=1, policy_version=1, stream=StreamState(next_group=0, cursor=cursor))
    return store.commit(store.begin(1), state, (), 2, config_yaml)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "run") as folder:
        yield folder


def test_changes_that_affect_training_are_refused_and_every_change_is_listed(folder: RunFolder) -> None:
    checkpoint = save(folder, dump_config(make_config()))
    changed = make_config(learner={"lr": 2e-6, "ranks": 2})
    with pytest.raises(ConfigError) as refused:
        _compare_config(changed, checkpoint, folder, allow_config_change=False)
    assert "learner.lr was 1e-06, is 2e-06: set it back, or pass --allow-config-change" in str(refused.value)
    assert "learner.ranks" not in str(refused.value)
    (event,) = folder.read_events()
    assert event["kind"] == "config_changed"
    assert "learner.lr was 1e-06, is 2e-06; learner.ranks was 1, is 2" in event["message"]


def test_allowed_changes_are_still_listed(folder: RunFolder) -> None:
    checkpoint = save(folder, dump_config(make_config()))
    _compare_config(make_config(learner={"lr": 2e-6}), checkpoint, folder, allow_config_change=True)
    assert [event["kind"] for event in folder.read_events()] == ["config_changed"]


def test_changes_that_do_not_affect_training_need_no_permission(folder: RunFolder) -> None:
    checkpoint = save(folder, dump_config(make_config()))
    _compare_config(make_config(run={"max_steps": 9}), checkpoint, folder, allow_config_change=False)
    assert [event["kind"] for event in folder.read_events()] == ["config_changed"]


def test_the_same_configuration_is_no_event(folder: RunFolder) -> None:
    _compare_config(make_config(), save(folder, dump_config(make_config())), folder, allow_config_change=False)
    assert list(folder.read_events()) == []
