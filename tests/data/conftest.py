"""Data files for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prompt_files import WriteLines


@pytest.fixture
def write(tmp_path: Path) -> WriteLines:
    """Writes rows (objects, or lines as they stand) to `sums.jsonl`."""

    def write_lines(*rows: object) -> str:
        path = tmp_path / "sums.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write_lines
