"""A model folder appears whole, and readable for whom other files are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maspo_dist.models.folder import whole_folder


@pytest.fixture
def group_readable() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("group_readable")
def test_weights_can_be_read_by_whom_the_umask_lets_read(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as draft:
        save_file({"w": torch.zeros(1)}, draft / "model.safetensors")
        (draft / "config.json").touch()
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert modes == {"model.safetensors": 0o640, "config.json": 0o640}
