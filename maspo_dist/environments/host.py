"""The rollout worker's side: sessions with the processes of a fork server, each call under a deadline.

open ──► wait for room ──► Fork ──► Task ──► session ──► Said, Heard ──► …  ──► End
                                                │ late, dead or no answer
                                                └──► End, EnvironmentFailedError
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import socket
from collections.abc import Mapping
from typing import Literal

from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.config.reasoning import REASONING_TAGS
from maspo_dist.environments.messages import Heard, Said, decode, encode, longest_line
from maspo_dist.environments.protocol import Session, Step, Task
from maspo_dist.environments.server_link import ServerLink
from maspo_dist.errors import (
    ActorDiedError,
    ConfigError,
    DeadlineError,
    EnvironmentFailedError,
    EnvironmentLostError,
)
from maspo_dist.reward.sample import one_line

#: Fork servers that may die one after another, without a session between them that was closed in order.
_MOST_DEATHS = 3
#: Processes that are forked at once.
_MOST_FORKING = 16
#: Seconds for which an answer is still read after its deadline: it may have arrived while the event loop was busy.
_LATE_S = 0.05
#: Seconds to wait for the news of how a process ended.
_NEWS_S = 1.0
#: Descriptors that the process needs besides one per session.
_OTHER_DESCRIPTORS = 512


class ForkedEnvironments:
    """Implements `EnvironmentHost`, for one event loop. Call `aclose` last.

    The kernel ends the processes when the thread of the event loop ends, so that a killed worker leaves nothing.
    """

    def __init__(
        self,
        config: EnvironmentConfig,
        quiet_s: float,
        start_timeout_s: float,
        reasoning_tags: Mapping[str, str] = REASONING_TAGS,
    ) -> None:
        """`quiet_s` bounds the wait for room, from the last time that any session was opened, answered or closed."""
        self._config = config
        self._reasoning_tags = reasoning_tags
        self._quiet_s = quiet_s
        self._start_timeout_s = start_timeout_s
        self._room = asyncio.Semaphore(config.processes)
        self._starting = asyncio.Lock()
        #: Few at once: the deadline of `reset` must not count the forks of a thousand others.
        self._forking = asyncio.Semaphore(_MOST_FORKING)
        self._link: ServerLink | None = None
        self._deaths = 0
        self._numbers = itertools.count()
        self._progress_s = 0.0
        self._opened = 0
        self._is_closed = False
        _allow_descriptors(config.processes + _OTHER_DESCRIPTORS)

    async def start(self) -> None:
        """Imports the environment. Raises ConfigError where that fails, ActorDiedError when no process can start."""
        await self._server()

    async def open(self, task: Task) -> Session:
        await self._enter(task)
        session: ForkedSession | None = None
        try:
            async with self._forking:
                session = await self._fork()
                await session.begin(self._start_timeout_s)
            await session.reset(task)
        except BaseException:
            if session is None:
                self._room.release()
            else:
                await session.close()
            raise
        self._opened += 1
        return session

    async def aclose(self) -> None:
        self._is_closed = True
        if self._link is not None:
            await self._link.aclose()

    @property
    def opened(self) -> int:
        """Sessions that were opened so far."""
        return self._opened

    @property
    def step_timeout_s(self) -> float:
        return self._config.step_timeout_s

    def note_progress(self) -> None:
        """A session was opened, answered or closed."""
        self._progress_s = asyncio.get_running_loop().time()

    def leave(self, in_order: bool) -> None:
        """A session has ended; `in_order` when its process was alive until then."""
        self.note_progress()
        if in_order:
            self._deaths = 0
        self._room.release()

    async def _enter(self, task: Task) -> None:
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        while (ends_s := max(self._progress_s, since_s) + self._quiet_s) > loop.time():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ends_s):
                    await self._room.acquire()
                    return
        raise DeadlineError(
            f"environment of prompt {task.prompt_id}: none of the {self._config.processes} open ones "
            f"(environment.processes) answered or ended for {self._quiet_s:g} s"
        )

    async def _fork(self) -> ForkedSession:
        link, number = await self._server(), next(self._numbers)
        ours, theirs = socket.socketpair()
        link.fork(number, theirs)
        try:
            limit = longest_line(self._config.max_observation_tokens)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=limit)
        except BaseException:
            ours.close()
            link.end(number)
            raise
        return ForkedSession(self, link, number, reader, writer)

    async def _server(self) -> ServerLink:
        """The fork server; another one if the last has died."""
        async with self._starting:
            if self._is_closed:
                raise ActorDiedError("environments: the host is closed")
            if self._link is not None and self._link.death is None:
                return self._link
            while True:
                if self._link is not None:
                    await self._link.aclose()
                    self._deaths += 1
                    if self._deaths >= _MOST_DEATHS:
                        raise ActorDiedError(
                            f"environments: the process that forks them died {self._deaths} times in a row, the last "
                            f"time {self._link.death}"
                        )
                self._link = ServerLink(self._config, self._reasoning_tags)
                failure = await self._link.started(self._start_timeout_s)
                if failure is not None:
                    await self.aclose()
                    raise ConfigError(failure)
                if self._link.death is None:
                    return self._link


class ForkedSession:
    """Implements `Session`: the process of one trajectory. One call at a time."""

    def __init__(
        self,
        host: ForkedEnvironments,
        link: ServerLink,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._host = host
        self._link = link
        self._number = number
        self._reader = reader
        self._writer = writer
        self._is_open = True
        link.on_end(number, writer.transport.abort)

    async def begin(self, timeout_s: float) -> None:
        """Waits until the process runs. Raises EnvironmentFailedError as `step` does."""
        await self._ask(b"", "start", timeout_s)

    async def reset(self, task: Task) -> None:
        """Raises EnvironmentFailedError as `step` does."""
        await self._ask(encode(task), "reset", self._host.step_timeout_s)

    async def step(self, response: str) -> Step:
        step = (await self._ask(encode(Said(response=response)), "step", self._host.step_timeout_s)).step
        if step is None:
            raise self._failure("error", "step: its process did not answer with a step")
        return step

    async def close(self) -> None:
        self._end(in_order=True)

    async def _ask(self, message: bytes, what: str, timeout_s: float) -> Heard:
        if not self._is_open:
            raise EnvironmentFailedError("error", f"{what}: the session has ended")
        if self._link.death is not None:
            # The process may still be there for a moment, and would answer.
            raise await self._end_of_process(what)
        try:
            self._writer.write(message)
            line = await self._line(timeout_s)
        except TimeoutError:
            raise self._failure("timeout", f"{what} took longer than {timeout_s:g} s") from None
        except OSError:
            line = b""
        except ValueError:
            raise self._failure("error", f"{what}: its process sent more than an answer can hold") from None
        if not line.endswith(b"\n"):
            raise await self._end_of_process(what)
        try:
            heard = decode(Heard, line)
        except ValueError as error:
            raise self._failure("error", f"{what}: its process sent no answer: {one_line(error)}") from None
        if heard.failure is not None and heard.is_lost:
            self._end(in_order=True)
            raise EnvironmentLostError(heard.failure)
        if heard.failure is not None:
            raise self._failure("error", f"{what}: {heard.failure}")
        self._host.note_progress()
        return heard

    async def _line(self, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reader.readline()
        except TimeoutError:
            async with asyncio.timeout(_LATE_S):
                return await self._reader.readline()

    async def _end_of_process(self, what: str) -> EnvironmentFailedError:
        how = await self._link.how_it_ended(self._number, _NEWS_S)
        if self._link.death is None:
            return self._failure("error", f"{what}: its process ended: {how}")
        self._end(in_order=False)
        return EnvironmentLostError(how)

    def _failure(self, status: Literal["timeout", "error"], reason: str) -> EnvironmentFailedError:
        self._end(in_order=False)
        return EnvironmentFailedError(status, reason)

    def _end(self, in_order: bool) -> None:
        if self._is_open:
            self._is_open = False
            self._writer.transport.abort()
            self._host.leave(in_order and self._link.death is None)
            self._link.end(self._number)


def _allow_descriptors(count: int) -> None:
    """Raises the soft limit on open files to `count`. Raises ConfigError where the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise ConfigError(
            f"environment.processes needs {count} open files, but this process may open {hard}: lower it, or raise "
            "the limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and count > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
