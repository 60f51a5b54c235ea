"""Rows of a data set: JSON Lines, Parquet, or a Hugging Face data set by name.

A row holds the texts of a file, checked for the fields that training needs; prompts.py tokenizes them.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pyarrow
import pyarrow.parquet

from maspo_dist.config import PromptConfig
from maspo_dist.errors import DataError

HUB_PREFIX = "hf:"

#: A problem is text, or chat messages (role, content) as some data sets keep them.
Message = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A checked row. `where` names file and line for error messages; no text is blank."""

    where: str
    row_id: str
    problem: str | tuple[Message, ...]
    answer: str
    source: str


def read_rows(data_set: str, config: PromptConfig) -> list[Row]:
    """Reads a JSONL or Parquet file, or `hf:NAME[:SPLIT]`; a field name with dots reaches into nested objects.

    A row's id is its `id`, else `<name>-<line>`. Its source is its source field, else the name: the file's stem or the
    last part of the hub name. Numbers become text, from JSON exactly as they are written there.

    Raises DataError: file missing or unreadable, bad JSON, a row without its fields or with a value of a wrong type,
    no rows.
    """
    if data_set.startswith(HUB_PREFIX):
        hub_name, _, split = data_set.removeprefix(HUB_PREFIX).partition(":")
        name = hub_name.rsplit("/", 1)[-1]
        records = _hub_records(data_set, hub_name, split or "train")
    else:
        path = _existing(Path(data_set))
        name = path.stem
        records = _parquet_records(path) if path.suffix == ".parquet" else _jsonl_records(path)
    rows = [_row(where, number, name, record, config) for where, number, record in records]
    if not rows:
        raise DataError(f"{data_set} holds no rows")
    return rows


Record = tuple[str, int, Mapping[str, Any]]


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a JSONL or Parquet file in it")
    if not path.parent.is_dir():
        raise DataError(f"data file {path} does not exist: there is no folder {path.parent}")
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {path.parent / near[0]}?" if near else f"{path.parent} holds no file of a similar name"
    raise DataError(f"data file {path} does not exist; {hint}")


def _jsonl_records(path: Path) -> Iterator[Record]:
    number = 0
    try:
        # newline="\n": text can hold other characters that count as line ends, for example U+2028.
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}, line {number}", number, _parse_json(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 ({error.reason}); is it a JSONL file?") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _parse_json(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line.strip(), parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        raise DataError(f"{where}: not JSON at column {error.colno} ({reason}); write one object per line") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply to read") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: {_kind(record)} instead of an object with fields; write one object per line")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a number in JSON", name, 0)


def _parquet_records(path: Path) -> Iterator[Record]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _hub_records(data_set: str, hub_name: str, split: str) -> Iterator[Record]:
    try:
        import datasets  # an optional dependency
    except ImportError:
        raise DataError(
            f"{data_set} needs the package datasets: install maspo-dist[hub], or give a JSONL or Parquet file"
        ) from None
    try:
        loaded = datasets.load_dataset(hub_name, split=split)
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{data_set} cannot be loaded from the hub ({reason}); correct the name, or give a JSONL or Parquet file"
        ) from None
    for number, record in enumerate(loaded, start=1):
        yield f"{data_set}, row {number}", number, record


def _row(where: str, number: int, name: str, record: Mapping[str, Any], config: PromptConfig) -> Row:
    problem, answer, source = config.problem_field, config.answer_field, config.source_field
    return Row(
        where=where,
        row_id=_optional_text(where, "id", record.get("id")) or f"{name}-{number}",
        problem=_problem(where, problem, _required(where, "data.problem_field", problem, record)),
        answer=_answer(where, answer, _required(where, "data.answer_field", answer, record)),
        source=_optional_text(where, source, _lookup(record, source)) or name,
    )


def _answer(where: str, field: str, value: Any) -> str:
    """Several answers become a JSON list of texts, which verifiers read; a list of one answer is that answer."""
    if not isinstance(value, list | tuple):
        return _text(where, field, value)
    texts = [_text(where, field, item) for item in value]
    if not texts:
        raise DataError(f"{where}: field {field!r} is an empty list")
    return texts[0] if len(texts) == 1 else json.dumps(texts, ensure_ascii=False)


_ABSENT = object()


def _lookup(record: Mapping[str, Any], field: str) -> Any:
    """The value of `field`, by its whole name or along its dots; `_ABSENT` if the record has none."""
    if field in record:
        return record[field]
    value: Any = record
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _required(where: str, key: str, field: str, record: Mapping[str, Any]) -> Any:
    value = _lookup(record, field)
    if value is _ABSENT:
        has = ", ".join(map(str, record)) or "none"
        raise DataError(f"{where}: no field {field!r}; the row has {has}: set {key} to the right field")
    return value


def _problem(where: str, field: str, value: Any) -> str | tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _text(where, field, value)
    messages = []
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise DataError(f"{where}: field {field!r} is a list, but not of chat messages with role and content")
        messages.append(
            (_text(where, f"{field}.role", message["role"]), _text(where, f"{field}.content", message["content"]))
        )
    if not messages:
        raise DataError(f"{where}: field {field!r} is an empty list")
    return tuple(messages)


def _optional_text(where: str, field: str, value: Any) -> str:
    return "" if value is None or value is _ABSENT or value == "" else _text(where, field, value)


def _text(where: str, field: str, value: Any) -> str:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} is {_kind(value)} instead of text or a number")
    if not value.strip():
        raise DataError(f"{where}: field {field!r} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: field {field!r} holds half a surrogate pair, which is not a character") from None
    return value


def _kind(value: Any) -> str:
    """The kind of a JSON value, in words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    kinds = {Mapping: "an object", str: "text", Sequence: "a list"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), repr(value))
