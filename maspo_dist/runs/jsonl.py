"""Append-only files of one JSON object per line, and the atomic replacement of a text file.

Both are safe to read while they are written. A process that is killed during an append leaves at most one line
without its newline: readers skip that line, and a writer cuts it off when it opens the file.
"""

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from maspo_dist.errors import DataError

_TAIL_BYTES = 1 << 16
_END_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20
#: Different ends of lines that are worth a search for each.
_MOST_ENDS = 16


class JsonLog:
    """The writer of one file. One process writes; any number may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Adds one line per row, in one write to the operating system. NaN and infinite values of a row become null.

        Raises OSError when the disk is full; the file then ends with the last whole line, as before the call.
        """
        data = b"".join(map(_encode, rows))
        if not data:
            return
        if self._file is None:
            # Unbuffered: a reader sees a row as soon as append returns.
            self._file = self.path.open("ab", buffering=0)
            self._file.truncate(_last_lines(self.path, _TAIL_BYTES)[1])
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(size)
            raise

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Replaces the file, in one rename, by the rows that `wanted` accepts; returns how many rows it refused."""
        self.close()
        if not self.path.exists():
            return 0
        removed = 0
        temporary = self.path.with_name(self.path.name + ".part")
        with temporary.open("wb") as out:
            for line, row in _read(self.path):
                if wanted(row):
                    out.write(line)
                else:
                    removed += 1
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(self.path)
        return removed

    def sync(self) -> None:
        """Waits until the disk holds everything that was appended."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def replace_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` (UTF-8) in one rename: a reader finds the old or the new file, whole."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_rows(path: Path, containing: bytes = b"") -> Iterator[dict[str, Any]]:
    """The rows of a file, oldest first; none if the file does not exist. A torn last line is left out.

    `containing` leaves out rows without that text, except in the first and the last megabyte: a long file is read fast.
    Raises DataError naming file and line if a whole line is not a JSON object.
    """
    return (row for _, row in _read(path, containing))


def _read(path: Path, containing: bytes = b"") -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        last = os.fstat(file.fileno()).st_size - _END_BYTES
        end = 0
        for number, line in enumerate(file, start=1):
            end += len(line)
            if line.endswith(b"\n") and (containing in line or not _END_BYTES < end < last):
                yield line, _decode(line, f"{path}, line {number}")


def count_rows(path: Path, key: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The different rows of a file, each cut to `key` and the keys after it, and their numbers.

    Much faster than to decode every row. Raises DataError as `read_rows` does.
    """
    if not path.exists():
        return
    start = f'"{key}": '.encode()
    counts: Counter[bytes] = Counter()
    with path.open("rb") as file:
        for block in _blocks(file):
            counts.update(_count_ends(block, start, [text for text, _ in counts.most_common(_MOST_ENDS)]))
    for text, count in counts.items():
        yield _decode(b"{" + text, f"{path}, a line without {key}"), count


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file, many at a time."""
    torn = b""
    while data := file.read(_BLOCK_BYTES):
        whole, newline, torn = (torn + data).rpartition(b"\n")
        if newline:
            yield whole + newline


def _count_ends(block: bytes, start: bytes, known: Sequence[bytes]) -> Counter[bytes]:
    """How often each end of a line occurs, from `start` on. If `known` are all of them, no line is looked at."""
    lines, found = block.count(b"\n"), Counter[bytes]()
    for text in known:
        if text.rfind(start) == 0:
            found[text] = block.count(text)
            lines -= found[text]
        if not lines:
            return found
    return Counter(start + line.partition(start)[2] + b"\n" for line in block.split(b"\n")[:-1])


def tail_rows(path: Path, max_bytes: int = 1 << 22) -> list[dict[str, Any]]:
    """The last whole rows, as many as fit in `max_bytes`; more only for a longer last row. Raises as read_rows does."""
    return [_decode(line, f"{path}, near its end") for line in _last_lines(path, max_bytes)[0]]


def _last_lines(path: Path, max_bytes: int) -> tuple[list[bytes], int]:
    """The last whole lines, as `tail_rows` says, and the offset at which they end."""
    if not path.exists():
        return [], 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while True:
            start = max(0, end - max_bytes)
            file.seek(start)
            *lines, torn = file.read(end - start).split(b"\n")
            end -= len(torn)
            # The first line may have begun before `start`.
            whole = lines[1:] if start > 0 else lines
            if not torn and (whole or start == 0):
                return whole, end
            max_bytes *= 1 if torn else 2


def _decode(line: bytes, where: str) -> dict[str, Any]:
    row = None
    with contextlib.suppress(ValueError):
        try:
            # Four times as fast as json, but it refuses half of a surrogate pair.
            row = from_json(line, cache_strings="keys")
        except ValueError:
            row = json.loads(line)
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object; remove the line to go on")
    return row


def _encode(row: Mapping[str, object]) -> bytes:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    text = json.dumps(finite, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # A response may hold half of a surrogate pair, which UTF-8 cannot represent and JSON can escape.
        return json.dumps(finite, allow_nan=False).encode() + b"\n"
