"""Append-only files of one JSON object per line, and the atomic replacement of a text file.

Both are safe to read while they are written. A process that is killed during an append leaves at most one line
without its newline: readers skip that line, and a writer cuts it off when it opens the file. Long files are read from
their ends: `status` of a run of 20,000 steps then takes a tenth of the time (`maspo-dist bench run-folder`).
"""

import contextlib
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from maspo_dist.errors import DataError

logger = logging.getLogger(__name__)

_TAIL_BYTES = 1 << 16
_END_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 18
_NEAR = 200
#: Different ends of lines that are worth a search for each.
_MOST_ENDS = 32


class JsonLog:
    """The writer of one file. One process writes; any number may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        #: Where the last whole row ends, while more may follow that a killed process or a full disk left half written.
        self._torn_at: int | None = None

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Adds one line per row, in one write to the operating system. NaN and infinite values of a row become null.

        Raises OSError when the disk is full; the file then ends with the last whole line, as before the call.
        """
        self._write(b"".join(map(_encode, rows)))

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._file is None:
            if self._torn_at is None:
                self._torn_at = _last_lines(self.path, _TAIL_BYTES)[1]
            # Unbuffered: a reader sees a row as soon as append returns.
            self._file = self.path.open("ab", buffering=0)
        self._cut_torn(self._file)
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._torn_at = size
            self._cut_torn(self._file)
            raise

    def _cut_torn(self, file: FileIO) -> None:
        if self._torn_at is not None:
            file.truncate(self._torn_at)
            self._torn_at = None

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

    def cut(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Removes all rows after the last row that `wanted` accepts; returns how many. Reads little more than those."""
        if not self.path.exists():
            return 0
        removed = 0
        with self.path.open("r+b", buffering=0) as file:
            self._cut_torn(file)
            end = file.seek(0, os.SEEK_END)
            for line in _lines_backwards(file, end):
                # A torn last line goes too.
                if line.endswith(b"\n"):
                    if wanted(_decode(line, self.path)):
                        break
                    removed += 1
                end -= len(line)
            file.truncate(end)
        return removed

    def sync(self) -> None:
        """Waits until the disk holds everything that was appended; warns if it refuses."""
        try:
            if self._file is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            logger.warning("%s may not be on the disk: %s", self.path, error)

    def close(self) -> None:
        """Closes the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


class RetryingLog(JsonLog):
    """Rows that the disk refuses wait in memory: the next append, `sync` or `close` writes them first."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._waiting: list[bytes] = []

    @property
    def is_waiting(self) -> bool:
        """Whether rows are in memory only."""
        return bool(self._waiting)

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Adds the rows as `JsonLog.append` does. If the disk is full, they wait; the first time, with a warning."""
        had_waiting = self.is_waiting
        self._waiting += map(_encode, rows)
        try:
            self._write(b"".join(self._waiting))
        except OSError as error:
            if not had_waiting:
                logger.warning("%s cannot be written, its rows wait in memory: %s", self.path, error)
        else:
            self._waiting.clear()

    def cut(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Removes rows as `JsonLog.cut` does, and rows in memory that `wanted` refuses, which are not counted."""
        self._waiting = [line for line in self._waiting if wanted(_decode(line, self.path))]
        return super().cut(wanted)

    def sync(self) -> None:
        self.append(())
        super().sync()

    def close(self) -> None:
        self.append(())
        if self._waiting:
            logger.warning("%s lacks its last %d rows: the disk refused them", self.path, len(self._waiting))
        super().close()


def replace_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` (UTF-8) in one rename: a reader finds the old or the new file, whole."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_rows(path: Path, containing: bytes = b"", keys: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a file, oldest first; none if the file does not exist. A torn last line is left out.

    `containing` leaves out rows without that text, except in the first and the last megabyte: a long file is read fast.
    Raises DataError naming file and line if a whole line is not a JSON object, or lacks one of `keys`.
    """
    return (row for _, row in _read(path, containing, keys))


def _read(path: Path, containing: bytes = b"", keys: Collection[str] = ()) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        last = os.fstat(file.fileno()).st_size - _END_BYTES
        end = 0
        for line in file:
            end += len(line)
            if line.endswith(b"\n") and (containing in line or not _END_BYTES < end < last):
                yield line, _decode(line, path, keys)


def sample_rows(path: Path, every: int, starting: bytes, keys: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Each `every`-th row, the rows with `starting` near their start, and the first and the last megabyte.

    Raises as `read_rows` does.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        last = os.fstat(file.fileno()).st_size - _END_BYTES
        end = 0
        for number, line in enumerate(file, start=1):
            end += len(line)
            is_wanted = number % every == 0 or not _END_BYTES < end < last or starting in line[:_NEAR]
            if is_wanted and line.endswith(b"\n"):
                yield _decode(line, path, keys)


def end_rows(
    path: Path, containing: bytes, tail_bytes: int, keys: Collection[str] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """The rows of the first megabyte; and of the last `tail_bytes`, the rows with `containing` and the last megabyte.

    None for a file that is not longer than both. Raises as `read_rows` does.
    """
    if not path.exists() or path.stat().st_size <= _END_BYTES + tail_bytes:
        return None
    with path.open("rb") as file:
        *head, _ = file.read(_END_BYTES).split(b"\n")
    tail, _ = _last_lines(path, tail_bytes)
    left = sum(len(line) + 1 for line in tail) - _END_BYTES
    kept = []
    for line in tail:
        if left <= 0 or containing in line:
            kept.append(_decode(line, path, keys))
        left -= len(line) + 1
    return [_decode(line, path, keys) for line in head], kept


def count_values(path: Path, first: str, second: str) -> Counter[tuple[Any, Any]]:
    """How many rows have each pair of values of two keys, None for a `second` that a row lacks; the values are texts.

    Much faster than to decode every row, above all where the two keys are the last. Raises DataError as `read_rows`
    does, for a row without `first`.
    """
    ends: Counter[bytes] = Counter()
    pairs: Counter[tuple[Any, Any]] = Counter()
    if path.exists():
        start = f'"{first}": '.encode()
        with path.open("rb", buffering=0) as file:
            for buffer, size in _blocks(file):
                of_ends = _count_ends(buffer, size, start, ends)
                if of_ends is None:
                    pairs.update(_count_pairs(bytes(buffer[:size]), first, second, path))
                else:
                    ends.update(of_ends)
    for text, count in ends.items():
        row = _row(b"{" + text)
        if row is None:
            # The end of a damaged line, or of a line that has `first` inside of another value too.
            return Counter((row[first], row.get(second)) for row in read_rows(path, keys=[first]))
        pairs[row[first], row.get(second)] += count
    return pairs


def _blocks(file: FileIO) -> Iterator[tuple[bytearray, int]]:
    """The whole lines of a file, many at a time: a buffer, which is used again, and how many bytes of it they fill."""
    buffer, held = bytearray(_BLOCK_BYTES), 0
    while read := file.readinto(memoryview(buffer)[held:]):
        held += read
        size = buffer.rfind(b"\n", 0, held) + 1
        if size:
            yield buffer, size
        held -= size
        buffer[:held] = buffer[size : size + held]
        if held == len(buffer):
            buffer.extend(bytes(held))


def _count_ends(buffer: bytearray, size: int, start: bytes, known: Mapping[bytes, int]) -> Counter[bytes] | None:
    """How often each end of a line occurs, from `start` on; None for too many different ends.

    If `known` has all of them, no line is looked at.
    """
    lines, found = buffer.count(b"\n", 0, size), Counter[bytes]()
    for text in known:
        if text.rfind(start) == 0:
            found[text] = buffer.count(text, 0, size)
            lines -= found[text]
        if not lines:
            return found
    found = Counter(start + line.partition(start)[2] + b"\n" for line in bytes(buffer[:size]).split(b"\n")[:-1])
    return found if len(known.keys() | found.keys()) <= _MOST_ENDS else None


def _count_pairs(block: bytes, first: str, second: str, path: Path) -> Counter[tuple[Any, Any]]:
    """As `count_values`, for keys anywhere in a row."""
    value = r'("(?:[^"\\]|\\.)*"|null)'
    one, other = (re.findall(f'"{key}": {value}'.encode(), block) for key in (first, second))
    if len(one) == len(other) == block.count(b"\n"):
        pairs = Counter(zip(one, other, strict=True))
        return Counter({(json.loads(a), json.loads(b)): count for (a, b), count in pairs.items()})
    rows = [_decode(line, path, [first]) for line in block.split(b"\n")[:-1]]
    return Counter((row[first], row.get(second)) for row in rows)


def tail_rows(path: Path, max_bytes: int = 1 << 22, keys: Collection[str] = ()) -> list[dict[str, Any]]:
    """The last whole rows, as many as fit in `max_bytes`; more only for a longer last row. Raises as read_rows does."""
    return [_decode(line, path, keys) for line in _last_lines(path, max_bytes)[0]]


def _lines_backwards(file: FileIO, end: int) -> Iterator[bytes]:
    """The lines before `end`, last first, each with its newline; the first of them may lack it."""
    rest = b""
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        block = file.read(end - start) + rest
        # The first line of the block may have begun before it.
        begun = block.find(b"\n") + 1 or len(block) if start > 0 else 0
        rest, end = block[:begun], start
        *lines, torn = block[begun:].split(b"\n")
        if torn:
            yield torn
        for line in reversed(lines):
            yield line + b"\n"


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


def _decode(line: bytes, path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """The row of a line of `path`. Raises DataError as `read_rows` does."""
    row = _row(line)
    if row is None:
        raise _damaged(path, line, "not a JSON object")
    for key in keys:
        if key not in row:
            raise _damaged(path, line, f"the row has no {key!r}")
    return row


def _damaged(path: Path, line: bytes, what: str) -> DataError:
    """Looks for the line in the whole file, since a reader of its end does not count lines."""
    with path.open("rb") as file:
        numbers = (number for number, other in enumerate(file, start=1) if other.rstrip(b"\n") == line.rstrip(b"\n"))
        number = next(numbers, None)
    place = path if number is None else f"{path}, line {number}"
    return DataError(f"{place}: {what}; remove the line to go on")


def _row(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line, None if it is none."""
    row = None
    with contextlib.suppress(ValueError):
        try:
            # Four times as fast as json, but it refuses half of a surrogate pair.
            row = from_json(line, cache_strings="keys")
        except ValueError:
            row = json.loads(line)
    return row if isinstance(row, dict) else None


def _encode(row: Mapping[str, object]) -> bytes:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    text = json.dumps(finite, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # A response may hold half of a surrogate pair, which UTF-8 cannot represent and JSON can escape.
        return json.dumps(finite, allow_nan=False).encode() + b"\n"
