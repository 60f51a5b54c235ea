"""Messages between the pool and a verifier process: one JSON array a line.

JSON, not pickle: what a process that scored hostile text sends back is read as data, never run.

    pool → process    Setup, then any number of Job; Recalled answers each Recall
    process → pool    Ready or Failed, then Recall, Remember and Scored; one Scored per Job, in order
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maspo_dist.types import Verdict

_CHUNK_BYTES = 1 << 17


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
    """`spent` says that the process ends here and must be replaced before the next sample."""

    verdict: Verdict
    spent: bool


Message = Setup | Job | Recalled | Ready | Failed | Recall | Remember | Scored
_KINDS: dict[str, Callable[..., Message]] = {
    kind.__name__: kind for kind in (Setup, Job, Recalled, Ready, Failed, Recall, Remember, Scored)
}
_HOLDS_VERDICT = frozenset({"Recalled", "Remember", "Scored"})


def _verdict_fields(value: object) -> list[object]:
    if not isinstance(value, Verdict):
        raise TypeError(f"{type(value).__name__} does not travel")
    return [value.reward, value.status, value.extracted, value.seconds, value.reason, value.components]


# Made once: json.dumps and json.loads make new ones for each call with an argument.
_encode = json.JSONEncoder(default=_verdict_fields, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def encode(message: Message) -> bytes:
    """One message with its end of line. Lone surrogates survive, as escapes."""
    fields = [getattr(message, name) for name in message.__slots__]
    return _encode([type(message).__name__, *fields]).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """The inverse of `encode`. Raises ValueError on anything else."""
    try:
        name, *fields = _decode(line.decode("ascii"))
        if name in _HOLDS_VERDICT:
            fields = [_verdict(field) if isinstance(field, list) else field for field in fields]
        return _KINDS[name](*fields)
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not a message: {error}") from None


def _verdict(fields: list[Any]) -> Verdict:
    reward, status, extracted, seconds, reason, components = fields
    return Verdict(
        reward=reward,
        status=status,
        extracted=extracted,
        seconds=seconds,
        reason=reason,
        components=tuple((part, value) for part, value in components),
    )


class Connection:
    """Messages over a stream socket, for one reader and one writer."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []

    @property
    def has_more(self) -> bool:
        """Whether a message has been read from the socket already."""
        return bool(self._lines)

    def send(self, *messages: Message, deadline: float | None = None) -> None:
        """Raises TimeoutError past `deadline`, OSError when the other side is gone."""
        self.send_frames([encode(message) for message in messages], deadline)

    def send_frames(self, frames: list[bytes], deadline: float | None) -> None:
        """Sends encoded messages; raises as `send` does."""
        self._stream.settimeout(None if deadline is None else _remaining_s(deadline))
        self._stream.sendall(b"".join(frames))

    def receive(self, deadline: float | None = None) -> Message:
        """Waits for one message until `deadline` (time.monotonic), or for ever.

        Raises TimeoutError past the deadline, EOFError when the other side is gone, ValueError for what is no
        message.
        """
        while not self._lines:
            self._stream.settimeout(None if deadline is None else _remaining_s(deadline))
            self._read()
        return decode(self._lines.popleft())

    def poll(self) -> bool:
        """Takes in what has arrived, without waiting, on a socket that was given no deadline; whether there is a
        message now. Raises as `receive` does."""
        with contextlib.suppress(BlockingIOError):
            while not self._lines:
                self._read(socket.MSG_DONTWAIT)
        return self.has_more

    def close(self) -> None:
        self._stream.close()

    def _read(self, flags: int = 0) -> None:
        try:
            data = self._stream.recv(_CHUNK_BYTES, flags)
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


class Bell:
    """A pipe by which the process says that something in its socket should not wait: a Recall, or the last verdict.

    Without it the pool would wake up for every verdict, which costs as much as the verdict.
    """

    def __init__(self) -> None:
        self._heard, self.ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._heard, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Until it rings, its process ends, or `seconds` have passed."""
        if self._poll.poll(seconds * 1e3):
            with contextlib.suppress(BlockingIOError):
                os.read(self._heard, _CHUNK_BYTES)

    def close_ringer(self) -> None:
        """The process has it now."""
        os.close(self.ringer)

    def close(self) -> None:
        os.close(self._heard)


def ring(ringer: int) -> None:
    """A bell that rings already, or that nobody hears any more, is not rung."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(ringer, b"!")


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError("no message before the deadline")
    return remaining_s
