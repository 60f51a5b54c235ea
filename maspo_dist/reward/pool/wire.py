"""Messages between the pool and a verifier process: one JSON object per line.

JSON, not pickle: what a process that scored hostile text sends is read as data, never run.

    pool → process    VerifierConfig, then any number of Sample
    process → pool    Started, then one Scored per Sample, in order
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict

_CHUNK_BYTES = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process can serve, or cannot: then `failure` is one line for people."""

    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A verdict on sample `number` of the process, from 1. With `spent` the process serves no further sample."""

    number: int
    verdict: Verdict
    spent: bool


_M = TypeVar("_M", VerifierConfig, Sample, Started, Scored)
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (VerifierConfig, Sample, Started, Scored)
}


def encode(message: VerifierConfig | Sample | Started | Scored) -> bytes:
    """One message with its end of line. Lone surrogates, which pydantic refuses, are escaped by the slower `json`."""
    try:
        return to_json(message, inf_nan_mode="constants") + b"\n"
    except PydanticSerializationError:
        return json.dumps(_ADAPTERS[type(message)].dump_python(message)).encode("ascii") + b"\n"


class Connection:
    """Lines over a stream socket, for one reader and one writer. Deadlines are of time.monotonic; None is no limit."""

    def __init__(self, stream: socket.socket, longest_line: int | None = None) -> None:
        """A line of more than `longest_line` bytes counts as the end of the other side."""
        self._stream = stream
        self._longest_line = longest_line
        self._lines: deque[bytes] = deque()
        self._partial = bytearray()

    @property
    def has_more(self) -> bool:
        """Whether a further line has been read from the socket already."""
        return bool(self._lines)

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Sends whole lines. Raises TimeoutError past `deadline`, OSError when the other side is gone."""
        self._set_timeout(deadline)
        self._stream.sendall(data)

    def receive(self, kind: type[_M], deadline: float | None = None) -> _M:
        """Waits for one message. Raises as `receive_line`, and ValueError for a line that is no message of `kind`."""
        line = self.receive_line(deadline)
        adapter: TypeAdapter[_M] = _ADAPTERS[kind]
        try:
            return adapter.validate_json(line)
        except ValidationError:
            # Escaped surrogates, or no message.
            try:
                return adapter.validate_python(json.loads(line))
            except RecursionError as error:
                raise ValueError(f"not a message: {error}") from None

    def receive_line(self, deadline: float | None = None) -> bytes:
        """Waits for one line. Raises TimeoutError past the deadline, EOFError when the other side is gone."""
        while not self._lines:
            self._set_timeout(deadline)
            self._read()
        return self._lines.popleft()

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> None:
        try:
            data = self._stream.recv(_CHUNK_BYTES)
        except ConnectionError as error:
            raise EOFError(str(error)) from None
        if not data:
            raise EOFError("the other side closed")
        self._partial += data
        if b"\n" in data:
            *whole, self._partial = self._partial.split(b"\n")
            self._lines.extend(map(bytes, whole))
        if self._longest_line is not None and len(self._partial) > self._longest_line:
            raise EOFError(f"a line of more than {self._longest_line} bytes")

    def _set_timeout(self, deadline: float | None) -> None:
        remaining_s = None if deadline is None else deadline - time.monotonic()
        if remaining_s is not None and remaining_s <= 0:
            raise TimeoutError("no message before the deadline")
        self._stream.settimeout(remaining_s)
