"""Where a run starts, and what a run that ends with an error leaves behind."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doubles.loop import make_config

from actors.commands import training
from actors.commands.training import Run, _resume_point
from maspo_dist.errors import ActorDiedError, ConfigError
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.rows import Event
from maspo_dist.runs.step_folders import StepFolders
from maspo_dist.views.console import open_console


def make_run(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Run:
    """A run that fails with `error` before it starts a process."""

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(training, "own_store", fail)
    monkeypatch.setattr(training, "disconnect", lambda: None)
    [size, *_] = KNOWN_SIZES.values()
    prepared: Any = SimpleNamespace(model=SimpleNamespace(size=size))
    return Run(make_config(), prepared, folder, open_console("run", 3, stream=io.StringIO()), None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ActorDiedError("rollout worker 0 died"), "rollout worker 0 died"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (RuntimeError("CUDA out of memory\nTried to allocate 2 GiB"), "RuntimeError: CUDA out of memory"),
    ],
    ids=["an error raised on purpose", "OSError", "RuntimeError"],
)
async def test_a_run_that_any_error_ends_says_so_in_its_events_and_raises_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    interruption: Any = None
    with RunFolder.create(tmp_path / "run") as folder:
        with pytest.raises(type(error)) as raised:
            await make_run(folder, monkeypatch, error).drive(interruption)
        assert raised.value is error
        assert [(event["kind"], event["message"]) for event in folder.read_events()] == [("run_failed", message)]


async def test_a_run_whose_last_event_cannot_be_written_ends_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(_: Event) -> None:
        raise OSError(28, "No space left on device")

    interruption: Any = None
    with RunFolder.create(tmp_path / "run") as folder:
        monkeypatch.setattr(folder, "write_event", disk_full)
        with pytest.raises(RuntimeError, match="CUDA out of memory"):
            await make_run(folder, monkeypatch, RuntimeError("CUDA out of memory")).drive(interruption)


def test_a_run_that_started_from_another_run_and_has_saved_nothing_starts_from_there_again(tmp_path: Path) -> None:
    others = StepFolders(tmp_path / "other")
    first = others.finish(others.begin(6), 6, {})
    with RunFolder.create(tmp_path / "run") as folder:
        started = Event(kind="started_from", message=str(first), details=(("checkpoint", str(first)),))
        folder.write_event(started)
        assert _resume_point(make_config(checkpoint={"resume": "auto"}), folder) == first
        own = StepFolders(folder.checkpoints_path)
        saved = own.finish(own.begin(8), 8, {})
        assert _resume_point(make_config(checkpoint={"resume": "auto"}), folder) == saved
        shutil.rmtree(saved)
        shutil.rmtree(first)
        with pytest.raises(ConfigError, match="step-000006 is not a good checkpoint"):
            _resume_point(make_config(checkpoint={"resume": "auto"}), folder)
