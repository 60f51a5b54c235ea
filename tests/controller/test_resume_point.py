"""Before a run resumes from a checkpoint, its configuration is compared with the configuration in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from doubles.loop import FakePool, make_config, make_prompt

from actors.commands.training import Run, _compare_config
from maspo_dist.config import dump_config
from maspo_dist.data.cursor import REFERENCES_CHANGED, CursorState, PromptCursor
from maspo_dist.data.prompts import PromptSet
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.errors import ConfigError
from maspo_dist.models.facts import ModelFacts
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.preflight import Prepared
from maspo_dist.runs.checkpoint import CheckpointStore, RunState, StreamState
from maspo_dist.runs.folder import RunFolder
from maspo_dist.types import Prompt
from maspo_dist.views.console import open_console


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


def test_references_that_changed_since_the_checkpoint_are_an_event_of_the_resumed_run(folder: RunFolder) -> None:
    config = make_config()
    prompts = tuple(map(make_prompt, range(4)))
    cursor = PromptCursor(prompts, config.run.seed).state
    state = RunState(step=1, policy_version=1, stream=StreamState(next_group=0, cursor=cursor))
    tokenizer = make_tokenizer()
    size = next(iter(KNOWN_SIZES.values()))
    model = ModelFacts(tokenizer=tokenizer, size=size, embeddings=len(tokenizer), training_obstacle=None)

    def events_of_resume(now: tuple[Prompt, ...]) -> list[tuple[str, str]]:
        prepared = Prepared(model=model, train=PromptSet(prompts=now, dropped_overlong=0), evaluation={})
        before = len(list(folder.read_events()))
        with open_console("run", 2) as console:
            run = Run(config, prepared, folder, console, None)
            run._session(FakePool(), state, ()).metrics.close()
        return [(event["kind"], event["message"]) for event in [*folder.read_events()][before:]]

    corrected = tuple(replace(prompt, reference="another") for prompt in prompts)
    assert events_of_resume(corrected) == [("resumed", "after step 1"), ("references_changed", REFERENCES_CHANGED)]
    assert events_of_resume(prompts) == [("resumed", "after step 1")]
