"""The records of a data file: JSON Lines, JSON, CSV, Parquet or Arrow, compressed or not, as its first bytes say."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from maspo_dist.errors import DataError

#: Where a record is, its number, and its fields.
Record = tuple[str, int, Mapping[str, Any]]
Lines = Iterator[tuple[int, str]]

_BATCH_ROWS = 8192
_ARROW_STREAM = b"\xff\xff\xff\xff"
_TABLES = (b"PAR1", b"ARROW1", _ARROW_STREAM)
_PICKLE = "a Python pickle: write its rows as JSON Lines or Parquet"
#: First bytes of files that cannot be read, with the remedy.
_REFUSED = {
    b"PK\x03\x04": "a zip archive or an Excel file: unpack it, or save the table as CSV",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"PARE": "an encrypted Parquet file: decrypt it",
    b"FEA1": "a Feather file of version 1: write it as Parquet",
    b"ORC": "an ORC file: write it as Parquet",
    b"Obj\x01": "an Avro file: write it as Parquet",
    b"\x89HDF": "an HDF5 file: write it as Parquet",
    b"SQLite format 3": "an SQLite database: export its table as CSV",
    b"\x93NUMPY": "a NumPy array: write it as Parquet",
    b"%PDF": "a PDF document: write its problems as JSON Lines",
    b"version https://git-lfs": "a Git LFS pointer, not the data: fetch the file with git lfs pull",
    **{bytes([0x80, protocol]): _PICKLE for protocol in (2, 3, 4, 5)},
}
_ENCODINGS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"{\x00": "utf-16-le",
    b"[\x00": "utf-16-le",
    b"\x00{": "utf-16-be",
    b"\x00[": "utf-16-be",
}
_UNREADABLE = (pyarrow.ArrowException, OSError, EOFError, ValueError, KeyError, zlib.error, lzma.LZMAError)


def _arrow_codec(codec: str) -> Callable[[Path], IO[bytes]]:
    return lambda path: io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), codec))


_CODECS: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": _arrow_codec("zstd"),
    b"\x04\x22\x4d\x18": _arrow_codec("lz4"),
}


def read_records(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    """The records of a file, in order. The first bytes say what the file is; its name does not matter.

    `fields` are the names that the caller looks up, the two required names first. Other columns of a table are left out
    if the table has the required columns. Raises DataError for a file that is something else or cannot be read.
    """
    try:
        with path.open("rb") as file:
            codec = _kind(_CODECS, file.read(16))
        with codec(path) if codec else path.open("rb") as file:
            head = file.read(512)
        refused = "a tar archive: unpack it" if head[257:262] == b"ustar" else _kind(_REFUSED, head)
        if refused:
            raise DataError(f"{path} is {refused}")
        with codec(path) if codec else path.open("rb") as file:
            if not head.startswith(_TABLES):
                yield from _text_records(path, _lines(path, file, _kind(_ENCODINGS, head) or "utf-8-sig"), fields)
                return
            source = pyarrow.BufferReader(file.read()) if codec else pyarrow.memory_map(str(path))
            records = itertools.chain.from_iterable(map(_rows, _table_batches(source, head, fields)))
            for number, record in enumerate(records, start=1):
                yield f"{path}, row {number}", number, record
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read: {reason}") from None


def _kind(kinds: Mapping[bytes, Any], head: bytes) -> Any:
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), None)


def _rows(batch: pyarrow.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


def _table_batches(source: Any, head: bytes, fields: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
    if head.startswith(b"PAR1"):
        parquet = pyarrow.parquet.ParquetFile(source)
        yield from parquet.iter_batches(_BATCH_ROWS, columns=_columns(parquet.schema_arrow.names, fields))
        return
    is_stream = head.startswith(_ARROW_STREAM)
    reader = pyarrow.ipc.open_stream(source) if is_stream else pyarrow.ipc.open_file(source)
    columns = _columns(reader.schema.names, fields)
    for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.select(columns).slice(start, _BATCH_ROWS)


def _columns(names: Sequence[str], fields: Sequence[str]) -> list[str]:
    roots = {field: {field, field.partition(".")[0]} for field in fields}
    if any(roots[field].isdisjoint(names) for field in fields[:2]):
        return list(names)
    return [name for name in names if any(name in root for root in roots.values())]


def _lines(path: Path, file: IO[bytes], encoding: str) -> Lines:
    number = 0
    try:
        # newline="\n": text can hold other characters that count as line ends, for example U+2028.
        with io.TextIOWrapper(file, encoding, newline="\n") as text:
            for number, line in enumerate(text, start=1):
                yield number, line
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, after line {number}: not {encoding.removesuffix('-sig').upper()} ({error.reason}); "
            "give JSON Lines, JSON, CSV, Parquet or Arrow"
        ) from None


def _text_records(path: Path, lines: Lines, fields: Sequence[str]) -> Iterator[Record]:
    start = next(((number, line) for number, line in lines if line.strip()), None)
    if start is None:
        return
    lines = itertools.chain([start], lines)
    number, first = start
    if not first.lstrip().startswith(("{", "[")):
        yield from _csv_records(path, number, first, (line for _, line in lines), fields)
    elif _is_document(first, fields):
        blank = "\n" * (number - 1)
        yield from _document_records(path, blank + "".join(line for _, line in lines), fields)
    else:
        for number, line in lines:
            if line.strip():
                where = f"{path}, line {number}"
                yield where, number, _object(where, _decode(where, line.strip().removesuffix(",")))


def _is_document(first: str, fields: Sequence[str]) -> bool:
    """Whether a file with this first line is JSON, and not JSON Lines: a list, or an object over several lines."""
    text = first.strip().removesuffix(",")
    if text.startswith("["):
        return True
    try:
        return _unwrapped(value := _JSON.decode(text), fields) != [value]
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except RecursionError:
        return False


def _document_records(path: Path, text: str, fields: Sequence[str]) -> Iterator[Record]:
    """The objects of a JSON list, of {"data": [...]}, or of several lists or objects in a row."""
    is_list = text.lstrip().startswith("[")
    position = text.index("[") + 1 if is_list else 0
    numbers = itertools.count(1)
    while (position := _skip(text, position)) < len(text):
        if is_list and text[position] == "]":
            position = _skip(text, position + 1)
            if position == len(text):
                return
            if text[position] != "[":
                line = text.count("\n", 0, position) + 1
                raise DataError(f"{path}, line {line}: text follows the end of the list: write one object per line")
            position += 1
            continue
        value, position = _decode(str(path), text, position)
        for record in _unwrapped(value, fields):
            number = next(numbers)
            where = f"{path}, row {number}"
            yield where, number, _object(where, record)
    if is_list:
        raise DataError(f"{path}: the list of the file has no end; is the file cut off?")


def _unwrapped(value: Any, fields: Sequence[str]) -> list[Any]:
    """The rows of a single list inside an object, as in {"version": 1, "data": [...]}; else the value as it is."""
    if isinstance(value, dict) and fields[0] not in value:
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        if len(lists) == 1 and fields[0] in lists[0][0]:
            return lists[0]
    return [value]


#: Numbers stay as they are written. Python writes NaN where a value is missing, in fields of no interest too.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=float)
_SEPARATORS = re.compile(r"[\s,]*")


def _skip(text: str, position: int) -> int:
    match = _SEPARATORS.match(text, position)
    return match.end() if match else position


def _decode(where: str, text: str, position: int | None = None) -> Any:
    """The JSON value of `text`, or with a position the value that begins there and its end."""
    try:
        return _JSON.decode(text) if position is None else _JSON.raw_decode(text, position)
    except json.JSONDecodeError as error:
        line = "" if position is None else f", line {error.lineno}"
        reason = error.msg.removesuffix(" at")
        message = f"{where}{line}: not JSON at column {error.colno} ({reason}); write one object per line"
        raise DataError(message) from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply to read") from None


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: {json_kind(value)} instead of an object with fields; write one object per line")
    return value


def json_kind(value: Any) -> str:
    """The kind of a JSON value, in words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    kinds = {Mapping: "an object", str: "text", bytes: "bytes", Sequence: "a list"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), repr(value))


def _csv_records(path: Path, number: int, first: str, lines: Iterable[str], fields: Sequence[str]) -> Iterator[Record]:
    """The rows under a CSV header, which begins on line `number`."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(lines, delimiter=max(",;\t|", key=first.count), skipinitialspace=True)
    try:
        header = reader.fieldnames or ()
        if not any(field in header for field in fields) and path.suffix.lower() not in (".csv", ".tsv"):
            shown = first.strip()[:60]
            raise DataError(
                f"{path}: the first line is neither JSON nor a CSV header with {' or '.join(fields[:2])}: {shown!r}; "
                "give JSON Lines, JSON, CSV, Parquet or Arrow"
            )
        for row in reader:
            where = f"{path}, line {reader.line_num + number - 1}"
            if None in row or None in row.values():
                raise DataError(f"{where}: the row has not as many cells as the header, which has {len(header)}")
            yield where, reader.line_num + number - 1, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + number - 1}: not CSV ({error})") from None
