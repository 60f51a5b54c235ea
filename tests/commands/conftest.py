"""Run folders that real learners left, made once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from doubles.model_kinds import save_mixed, save_windows
from doubles.ranks import Ranks, join
from exported_runs import make_folder, train_and_export


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models windows, mixed and qwen3, and the runs of `train_and_export`."""
    folder = tmp_path_factory.mktemp("export")
    save_windows(folder / "windows")
    save_mixed(folder / "mixed")
    make_folder(folder / "qwen3")
    join(Ranks(2, train_and_export, folder))
    return folder
