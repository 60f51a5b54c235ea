"""One file of rows: appends that the disk refuses, and cuts."""

from __future__ import annotations

import errno
import json
from contextlib import closing
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from maspo_dist.runs.jsonl import JsonLog, RetryingLog, read_rows


class Disk(FileIO):
    """Takes 14 bytes more once it is broken, and then nothing, not even a cut."""

    is_broken = False

    def write(self, data: Any) -> int:
        if self.is_broken and len(data) < 24:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(data[:14] if self.is_broken else data)

    def truncate(self, size: int | None = None) -> int:
        if self.is_broken:
            raise OSError(errno.EIO, "Input/output error")
        return super().truncate(size)


def test_an_append_that_can_be_neither_finished_nor_cut_off_is_cut_off_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_path(path: Path, mode: str = "r", **options: Any) -> Any:
        return Disk(path, mode) if mode == "ab" else real_open(path, mode, **options)

    real_open = Path.open
    monkeypatch.setattr(Path, "open", open_path)
    path = tmp_path / "rows.jsonl"
    with closing(RetryingLog(path)) as log:
        log.append([{"step": 0}])
        monkeypatch.setattr(Disk, "is_broken", True)
        log.append([{"step": 1}, {"step": 2}])
        assert path.read_bytes() == b'{"step": 0}\n{"step": 1}\n{"'
        monkeypatch.setattr(Disk, "is_broken", False)
        log.append([{"step": 3}])
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("tail", [b"", b'{"step": 7, "wh', b"\x00" * 100], ids=["whole", "torn", "zeros"])
@pytest.mark.parametrize("block_bytes", [1, 10, 64, 1 << 18])
def test_a_log_is_cut_after_the_last_row_to_keep_whatever_the_lengths_of_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, tail: bytes
) -> None:
    monkeypatch.setattr("maspo_dist.runs.jsonl._BLOCK_BYTES", block_bytes)
    lines = [json.dumps({"step": step, "text": "x" * (40 * step % 100)}).encode() + b"\n" for step in range(7)]
    for last in range(-1, 7):
        path = tmp_path / f"{last}.jsonl"
        path.write_bytes(b"".join(lines) + tail)
        with closing(JsonLog(path)) as log:
            assert log.cut(lambda row: row["step"] <= last) == 6 - last  # noqa: B023 (called here)
            assert path.read_bytes() == b"".join(lines[: last + 1])
            log.append([{"step": 9}])
        assert path.read_bytes() == b"".join([*lines[: last + 1], b'{"step": 9}\n'])
