"""Messages between the pool and a verifier process: JSON behind a four-byte length.

JSON, not pickle: what a process that scored hostile text sends back is read as data, never run.

    pool → process    Setup, then any number of Job; Recalled answers each Recall
    process → pool    Ready or Failed, then Recall, Remember and Scored; one Scored per Job, in order
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maspo_dist.types import Verdict

_LENGTH = struct.Struct(">I")
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Setup:
    """The pool's configuration as JSON."""

    config: str


@dataclass(frozen=True, slots=True)
class Job:
    response: str
    reference: str
    source: str


@dataclass(frozen=True, slots=True)
class Recalled:
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Ready:
    resident_mb: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The process cannot serve; `reason` is one line for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Recall:
    key: str


@dataclass(frozen=True, slots=True)
class Remember:
    key: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Scored:
    """`spent` says that the process must be replaced before the next sample."""

    verdict: Verdict
    spent: bool


Message = Setup | Job | Recalled | Ready | Failed | Recall | Remember | Scored
_KINDS: dict[str, Callable[..., Message]] = {
    kind.__name__: kind for kind in (Setup, Job, Recalled, Ready, Failed, Recall, Remember, Scored)
}


def encode(message: Message) -> bytes:
    """One framed message. Lone surrogates survive, as escapes."""
    fields = [getattr(message, name) for name in message.__slots__]
    body = json.dumps([type(message).__name__, *fields], default=_verdict_fields).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The inverse of `encode`, without the length. Raises ValueError on anything else."""
    name, *fields = json.loads(body, object_hook=_verdict)
    if name not in _KINDS:
        raise ValueError(f"unknown message {name!r}")
    return _KINDS[name](*fields)


def _verdict_fields(value: object) -> dict[str, object]:
    if not isinstance(value, Verdict):
        raise TypeError(f"{type(value).__name__} does not travel")
    return {name: getattr(value, name) for name in Verdict.__slots__}


def _verdict(fields: dict[str, Any]) -> Verdict:
    """Verdicts are the only objects on the wire."""
    fields["components"] = tuple((part, value) for part, value in fields["components"])
    return Verdict(**fields)


class Connection:
    """Framed messages over a stream socket, for one reader and one writer."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._buffer = bytearray()

    def send(self, *messages: Message, deadline: float | None = None) -> None:
        """Raises TimeoutError past `deadline`, OSError when the other side is gone."""
        self._await(deadline)
        self._stream.sendall(b"".join(encode(message) for message in messages))

    def receive(self, deadline: float | None = None) -> Message:
        """Waits for one message until `deadline` (time.monotonic), or for ever.

        Raises TimeoutError past the deadline, EOFError when the other side is gone.
        """
        size = _LENGTH.unpack(self._take(_LENGTH.size, deadline))[0]
        return decode(self._take(size, deadline))

    def close(self) -> None:
        self._stream.close()

    def _take(self, count: int, deadline: float | None) -> bytes:
        while len(self._buffer) < count:
            self._await(deadline)
            try:
                data = self._stream.recv(_CHUNK_BYTES)
            except ConnectionError as error:
                raise EOFError(str(error)) from None
            if not data:
                raise EOFError("the other side closed")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _await(self, deadline: float | None) -> None:
        if deadline is None:
            self._stream.settimeout(None)
            return
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("no message before the deadline")
        self._stream.settimeout(remaining_s)
