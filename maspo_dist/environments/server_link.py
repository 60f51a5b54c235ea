"""The connection of a host to its fork server: packets both ways, on the event loop, and the life of its process."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping

from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.environments.fork_server import PACKET_BYTES
from maspo_dist.reward.pool.lifetime import kill_tree
from maspo_dist.reward.pool.process import start_process

#: Seconds for the processes to end by themselves once the connection is closed.
_EXIT_S = 5.0
#: Seconds between the news that a process has ended and the end of its connection: its last words are read first.
_LAST_WORDS_S = 0.1


class ServerLink:
    """Starts a fork server, by exec, so that it inherits no torch, no Ray, no locks; must be made on the event loop.

    `death` says how the server ended, None while it lives.
    """

    def __init__(self, config: EnvironmentConfig, reasoning_tags: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = start_process("maspo_dist.environments.fork_server", theirs)
        self.death: str | None = None
        self._kind = config.kind
        self._failure: asyncio.Future[str | None] = self._loop.create_future()
        #: Of each process that was asked for: how it ended.
        self._ends: dict[int, asyncio.Future[str]] = {}
        #: Packets that the socket has not taken yet, each with the socket that it carries.
        self._unsent: deque[tuple[bytes, socket.socket | None]] = deque()
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._read)
        self._send(
            json.dumps({"config": config.model_dump_json(), "reasoning_tags": dict(reasoning_tags)}).encode(), None
        )

    @property
    def pid(self) -> int:
        """The process id of the keeper, which ends with all that it keeps."""
        return self._process.pid

    async def started(self, timeout_s: float) -> str | None:
        """Waits until environments can be forked: None, or why they cannot. `death` is set if the server died."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._failure)
        except TimeoutError:
            return f"environment.kind is {self._kind!r}: importing what it names took longer than {timeout_s:g} s"

    def fork(self, number: int, stream: socket.socket) -> None:
        """Asks for the process of trajectory `number`, with `stream`, which is closed here, as its connection."""
        self._ends[number] = self._loop.create_future()
        if self.death is not None:
            self._ends[number].set_result(self._end_of_all())
        self._send(json.dumps({"fork": number}).encode(), stream)

    def end(self, number: int) -> None:
        """Tells the server to kill a process."""
        ended = self._ends.pop(number, None)
        if self.death is None and ended is not None and not ended.done():
            self._send(json.dumps({"end": number}).encode(), None)

    def on_end(self, number: int, then: Callable[[], None]) -> None:
        """Calls `then` a moment after the process has ended."""
        self._ends[number].add_done_callback(lambda _: self._loop.call_later(_LAST_WORDS_S, then))

    async def how_it_ended(self, number: int, timeout_s: float) -> str:
        """How the process of `number` ended, in words."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._ends[number])
        except TimeoutError:
            return "it closed its connection"

    async def aclose(self) -> None:
        """Ends the server and all that it started; returns when they have ended."""
        died = self.death is not None
        self._disconnect("it was closed")
        await asyncio.to_thread(self._await_exit)
        if died:
            # The keeper ends a moment after the server whose exit code it passes on.
            self.death = self._how_it_died()

    def _await_exit(self) -> None:
        try:
            self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            kill_tree(self._process.pid)
            self._process.wait()

    def _read(self) -> None:
        try:
            while packet := self._control.recv(PACKET_BYTES):
                self._take(packet)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._disconnect(self._how_it_died())

    def _take(self, packet: bytes) -> None:
        news = json.loads(packet)
        if "failure" in news:
            if not self._failure.done():
                self._failure.set_result(news["failure"])
        elif (ended := self._ends.get(news["ended"])) is not None and not ended.done():
            ended.set_result(news["how"])

    def _how_it_died(self) -> str:
        try:
            code = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"

    def _disconnect(self, death: str) -> None:
        if self.death is not None:
            return
        self.death = death
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        for _, stream in self._unsent:
            if stream is not None:
                stream.close()
        self._unsent.clear()
        if not self._failure.done():
            self._failure.set_result(None)
        for ended in self._ends.values():
            if not ended.done():
                ended.set_result(self._end_of_all())

    def _end_of_all(self) -> str:
        return f"the process that forks environments ended: {self.death}"

    def _send(self, packet: bytes, stream: socket.socket | None) -> None:
        if self.death is not None:
            if stream is not None:
                stream.close()
            return
        self._unsent.append((packet, stream))
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                packet, stream = self._unsent[0]
                socket.send_fds(self._control, [packet], [] if stream is None else [stream.fileno()])
                self._unsent.popleft()
                if stream is not None:
                    stream.close()
        except BlockingIOError:
            self._loop.add_writer(self._control, self._flush)
        except OSError:
            # The server has died; `_read` learns of it.
            self._loop.remove_writer(self._control)
        else:
            self._loop.remove_writer(self._control)
