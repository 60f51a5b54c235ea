"""Run folders to test with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from maspo_dist.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """An empty run folder, open for writing."""
    with RunFolder.create(tmp_path / "run", "run: {}\n") as folder:
        yield folder
