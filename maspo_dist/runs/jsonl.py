"""Append-only files of one JSON object a line, safe to read while they are written.

A process killed in the middle of a write leaves at most one line without its newline. Readers skip
that line; a writer cuts it off when it opens the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Self

from maspo_dist.errors import DataError

_TAIL_BLOCK_BYTES = 1 << 16


class JsonLog:
    """The writer of one file. One process writes; any number may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Adds a line for each row, in one write, and flushes it to the operating system.

        Raises ValueError for a value that JSON has no word for (NaN, an array), OSError when the
        disk is full; the file then ends with the last whole line, as before.
        """
        data = b"".join(_encode(row) for row in rows)
        if not data:
            return
        if self._file is None:
            self._file = self._open()
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(size)
            raise

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Rewrites the file with the rows that `wanted` accepts; returns how many went.

        The new file replaces the old one in one rename.
        """
        self.close()
        if not self.path.exists():
            return 0
        removed = 0
        temporary = self.path.with_name(self.path.name + ".part")
        with temporary.open("wb") as out:
            for row in read_rows(self.path):
                if wanted(row):
                    out.write(_encode(row))
                else:
                    removed += 1
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(self.path)
        return removed

    def sync(self) -> None:
        """Waits until the disk has what was appended."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> FileIO:
        # Unbuffered: what append returns from, a reader can see.
        file = self.path.open("ab", buffering=0)
        whole = _whole_lines_bytes(self.path)
        if whole < file.tell():
            file.truncate(whole)
        return file


def finite(row: Mapping[str, object]) -> dict[str, object]:
    """`row` with None in place of infinities and NaN, for which JSON has no word."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, oldest first; none if it does not exist. A torn last line is left out.

    Raises DataError naming file and line where a whole line is not a JSON object.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: not a JSON object; remove the line to go on")
            yield row


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row, read from the end of the file; None if there is none."""
    if not path.exists():
        return None
    end = _whole_lines_bytes(path)
    with path.open("rb") as file:
        start, line = end, b""
        while start > 0 and b"\n" not in line[:-1]:
            block_start = max(0, start - _TAIL_BLOCK_BYTES)
            file.seek(block_start)
            line = file.read(start - block_start) + line
            start = block_start
    text = line[:-1].rpartition(b"\n")[2]
    if not text:
        return None
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{path}: the last line is not a JSON object; remove it to go on")
    return row


def tail_rows(path: Path, max_bytes: int = 1 << 22) -> list[dict[str, Any]]:
    """The last rows, as many as fit in `max_bytes` (a longer last row alone)."""
    if not path.exists():
        return []
    end = _whole_lines_bytes(path)
    start = max(0, end - max_bytes)
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    if start > 0:
        data = data.partition(b"\n")[2]
    if not data:
        row = last_row(path)
        return [] if row is None else [row]
    return [json.loads(line) for line in data[:-1].split(b"\n")]


def _whole_lines_bytes(path: Path) -> int:
    """Size of the file up to and including its last newline."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL_BLOCK_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _encode(row: Mapping[str, object]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # A response may hold half of a surrogate pair, which UTF-8 cannot write and JSON can escape.
        return json.dumps(row, allow_nan=False).encode() + b"\n"
