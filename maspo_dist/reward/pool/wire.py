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

from pydantic import TypeAdapter

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
    """A verdict. `spent` says that the process ends here and must be replaced before the next sample."""

    verdict: Verdict
    spent: bool


Message = VerifierConfig | Sample | Started | Scored
_M = TypeVar("_M", VerifierConfig, Sample, Started, Scored)
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (VerifierConfig, Sample, Started, Scored)
}


def encode(message: Message) -> bytes:
    """One message with its end of line. Lone surrogates survive as escapes, which pydantic's own JSON refuses."""
    return json.dumps(_ADAPTERS[type(message)].dump_python(message)).encode("ascii") + b"\n"


def decode(kind: type[_M], line: bytes) -> _M:
    """The inverse of `encode`. Raises ValueError for a line that is no message of this kind."""
    try:
        message: _M = _ADAPTERS[kind].validate_python(json.loads(line))
    except RecursionError as error:
        raise ValueError(f"not a message: {error}") from None
    return message


class Connection:
    """Messages over a stream socket, for one reader and one writer."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []

    @property
    def has_more(self) -> bool:
        """Whether a further message has been read from the socket already."""
        return bool(self._lines)

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Sends encoded messages. Raises TimeoutError past `deadline`, OSError when the other side is gone."""
        self._stream.settimeout(None if deadline is None else _remaining_s(deadline))
        self._stream.sendall(data)

    def receive(self, kind: type[_M], deadline: float | None = None) -> _M:
        """Waits for one message until `deadline` (time.monotonic), or without limit.

        Raises TimeoutError past the deadline, EOFError when the other side is gone, ValueError for a line that is no
        message of this kind.
        """
        while not self._lines:
            self._stream.settimeout(None if deadline is None else _remaining_s(deadline))
            self._read()
        return decode(kind, self._lines.popleft())

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> None:
        try:
            data = self._stream.recv(_CHUNK_BYTES)
        except ConnectionError as error:
            raise EOFError(str(error)) from None
        if not data:
            raise EOFError("the other side closed")
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._partial, whole[0]])
            self._lines.extend(whole)
            self._partial.clear()
        if rest:
            self._partial.append(rest)


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError("no message before the deadline")
    return remaining_s
