"""Rows of a data set, checked for the fields that training needs: a file, or a Hugging Face data set by name."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from maspo_dist.config import PromptConfig
from maspo_dist.data.files import Record, json_kind, read_records
from maspo_dist.errors import DataError

HUB_PREFIX = "hf:"

#: A chat message: role and content.
Message = tuple[str, str]

SYSTEM_ROLES = ("system", "developer")

#: Suffixes of data files, which are no part of a data set's name.
_SUFFIXES = re.compile(r"(\.(jsonl?|ndjson|csv|tsv|parquet|pq|arrow|gz|zst|bz2|xz|lz4))+$", re.IGNORECASE)
#: What `datasets` says of a data set whose configuration must be named.
_CONFIGURATIONS = re.compile(r"Config name is missing.*?\[(.*?)\]", re.DOTALL)
_TEXTS = (str, bytes)
_NUMBERS = (int, float, Decimal)
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_CHAT_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")


@dataclass(slots=True)
class Row:
    """A checked row. `where` names file and line for error messages.

    `problem` is text, or chat messages of which the last is the user's or a tool's. At most one of them is a system
    message, and only this message can be blank. `from_text` says that the data hold these messages as JSON text.
    """

    where: str
    row_id: str
    problem: str | tuple[Message, ...]
    answer: str
    source: str
    from_text: bool = False


def read_rows(data_set: str, config: PromptConfig) -> Iterator[Row]:
    """Reads a file, or `hf:NAME[/CONFIG][:SPLIT]`, row by row; a field name with dots reaches into nested objects.

    A row's id is its `id`, else `<name>-<line>`. Its source is its source field, else the name: the file's name without
    suffixes, or the hub name without owner. Numbers become text, from JSON exactly as they are written there.

    Raises DataError: file missing or unreadable, bad JSON, a row without its fields or with a value of a wrong type,
    messages that hold the answer, no rows.
    """
    if data_set.startswith(HUB_PREFIX):
        name = hub_short_name(data_set)
        records = _hub_records(data_set)
    else:
        path = require_file(Path(data_set))
        name = _SUFFIXES.sub("", path.name)
        name = path.stem if name in ("", path.name) else name
        records = read_records(path, (config.problem_field, config.answer_field, config.source_field, "id"))
    number = 0
    for where, number, record in records:
        yield _row(where, number, name, record, config)
    if not number:
        raise DataError(f"{data_set} holds no rows")


def require_file(path: Path) -> Path:
    """`path` if it is a file, else DataError with the nearest name."""
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise DataError(f"data file {path} does not exist: there is no folder {path.parent}")
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {path.parent / near[0]}?" if near else f"{path.parent} holds no file of a similar name"
    raise DataError(f"data file {path} does not exist; {hint}")


def hub_short_name(data_set: str) -> str:
    """The name of `hf:NAME[/CONFIG][:SPLIT]` without owner."""
    return _hub_parts(data_set)[0].rpartition("/")[2]


def _hub_parts(data_set: str) -> tuple[str, str | None, str]:
    """Name with its owner, configuration, and split."""
    place, _, split = data_set.removeprefix(HUB_PREFIX).partition(":")
    owner, name, configuration = [*place.split("/", 2), "", ""][:3]
    return f"{owner}/{name}".rstrip("/"), configuration or None, split or "train"


def _hub_records(data_set: str) -> Iterator[Record]:
    try:
        import datasets  # an optional dependency
    except ImportError:
        raise DataError(
            f"{data_set} needs the package datasets: install maspo-dist[hub], or give a JSONL or Parquet file"
        ) from None
    try:
        hub_name, configuration, split = _hub_parts(data_set)
        loaded = datasets.load_dataset(hub_name, configuration, split=split)
    except Exception as error:  # The errors of that package have no base that this module could name.
        # Some of them tell what happened only in their cause.
        told = error.__cause__ if type(error).__module__.startswith("datasets") and error.__cause__ else error
        reason = (str(told).splitlines() or [type(told).__name__])[0]
        if choices := _CONFIGURATIONS.search(str(error)):
            raise DataError(
                f"{data_set} names no configuration, and the data set has several: write "
                f"{HUB_PREFIX}{hub_name}/CONFIG with one of {choices[1]}"
            ) from None
        raise DataError(
            f"{data_set} cannot be loaded from the hub ({reason}); correct the name, or give a JSONL or Parquet file"
        ) from None
    for number, record in enumerate(loaded, start=1):
        yield f"{data_set}, row {number}", number, record


def _row(where: str, number: int, name: str, record: Mapping[str, Any], config: PromptConfig) -> Row:
    problem, answer, source = config.problem_field, config.answer_field, config.source_field
    value = _required(where, "data.problem_field", problem, record)
    from_text = isinstance(value, str) and _CHAT_AS_TEXT.match(value) is not None
    return Row(
        where,
        _optional_text(where, "id", record.get("id")) or f"{name}-{number}",
        _problem(where, problem, _parsed_chat(where, problem, value) if from_text else value),
        _answer(where, answer, _required(where, "data.answer_field", answer, record)),
        _optional_text(where, source, _lookup(record, source)) or name,
        from_text,
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
        has = ", ".join(_names(record)) or "none"
        raise DataError(f"{where}: no field {field!r}; the row has {has}: set {key} to the right field")
    return value


def _names(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _names(value, f"{prefix}{name}.")
        else:
            whole = f"{prefix}{name}"
            yield whole if whole.isprintable() else repr(whole)


def _problem(where: str, field: str, value: Any) -> str | tuple[Message, ...]:
    if isinstance(value, _TEXTS) or not isinstance(value, Sequence):
        return _text(where, field, value)
    messages = tuple(_message(where, field, message) for message in value)
    if not messages:
        raise DataError(f"{where}: field {field!r} is an empty list")
    roles = [role for role, _ in messages]
    if sum(role in SYSTEM_ROLES for role in roles) > 1:
        raise DataError(f"{where}: field {field!r} holds more than one system message; merge them")
    if roles[-1] not in ("user", "tool"):
        raise DataError(
            f"{where}: the messages in {field!r} end with a turn of {roles[-1]!r}, so the prompt would hold an answer; "
            "end them with the user's turn, or set data.problem_field to a field that holds the problem alone"
        )
    return messages


def _parsed_chat(where: str, field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(
            f"{where}: field {field!r} holds chat messages as text that is not JSON; store them as a list"
        ) from None


def _message(where: str, field: str, message: Any) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise DataError(f"{where}: field {field!r} is a list, but not of chat messages with role and content")
    if message.get("tool_calls"):
        raise DataError(
            f"{where}: a message of {field!r} holds tool_calls, which would be lost: write the calls into its content"
        )
    role, content = _text(where, f"{field}.role", message["role"]), message["content"]
    if isinstance(content, Sequence) and not isinstance(content, _TEXTS):
        content = "".join(_part(where, f"{field}.content", part) for part in content)
    if role in SYSTEM_ROLES and isinstance(content, str) and not content.strip():
        return role, content
    return role, _text(where, f"{field}.content", content)


def _part(where: str, field: str, part: Any) -> str:
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, Mapping) else json_kind(part)
        raise DataError(f"{where}: field {field!r} holds a part of kind {kind!r}; only text can be trained on")
    return str(part["text"])


def _optional_text(where: str, field: str, value: Any) -> str:
    is_absent = value is None or value is _ABSENT or value == "" or (isinstance(value, float) and math.isnan(value))
    return "" if is_absent else _text(where, field, value)


def _text(where: str, field: str, value: Any) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{where}: field {field!r} is bytes that are not UTF-8 text") from None
    if isinstance(value, str):
        if not value or value.isspace():
            raise DataError(f"{where}: field {field!r} is empty")
        if not value.isascii() and _HALF_PAIR.search(value):
            raise DataError(f"{where}: field {field!r} holds half a surrogate pair, which is not a character")
        return value
    if isinstance(value, _NUMBERS) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise DataError(f"{where}: field {field!r} is {json_kind(value)} instead of text or a number")
