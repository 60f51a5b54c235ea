"""Messages between a rollout worker and the process of one environment: one JSON object per line.

JSON, not pickle: what a process sends that ran a model's text is read as data, never run.

    worker → environment    Task, then any number of Said
    environment → worker    one Heard when it runs, then one for each
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from maspo_dist.environments.protocol import Step, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One turn of the model."""

    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The answer: `step`, or `failure`, one line for people; neither at the start, nor after a `reset`.

    is_lost   the environment asks for its trajectory to start again
    """

    step: Step | None = None
    failure: str | None = None
    is_lost: bool = False


#: A longer text per allowed token is too long for the model anyway, and need not travel.
_CHARS_PER_TOKEN = 64
#: Most bytes of a character in JSON, and of all numbers of an answer.
_CHAR_BYTES, _NUMBER_BYTES = 12, 1 << 16

_M = TypeVar("_M", Task, Said, Heard)
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Task, Said, Heard)}


def most_characters(max_observation_tokens: int) -> int:
    """Most characters of an observation on its way to the worker, which cuts it to its number of tokens."""
    return max_observation_tokens * _CHARS_PER_TOKEN


def longest_line(max_observation_tokens: int) -> int:
    """Most bytes of an answer."""
    return most_characters(max_observation_tokens) * _CHAR_BYTES + _NUMBER_BYTES


def encode(message: Task | Said | Heard) -> bytes:
    """One message with its end of line. Lone surrogates survive as escapes, which pydantic's own JSON refuses."""
    return json.dumps(_ADAPTERS[type(message)].dump_python(message)).encode("ascii") + b"\n"


def decode(kind: type[_M], line: bytes) -> _M:
    """The message in `line`. Raises ValueError for a line that is no message of `kind`."""
    try:
        message: _M = _ADAPTERS[kind].validate_python(json.loads(line))
    except RecursionError as error:
        raise ValueError(f"not a message: {error}") from None
    return message
