"""Waiting for a condition of some state that says when it has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.ray.waits import within
from maspo_dist.errors import ActorDiedError, MaspoError


class Changes:
    """Wakes those who wait at every `notify`. Once broken, it raises the error for all, now and later."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        # In the order in which they came, so that a seeded run wakes them alike every time.
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._error: MaspoError | None = None

    @property
    def is_broken(self) -> bool:
        return self._error is not None

    def notify(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """The first error stands; one that nobody raised on purpose is told as the owner's death."""
        if self._error is None:
            if isinstance(error, MaspoError):
                self._error = error
            else:
                self._error = ActorDiedError(f"{self._owner}: {error!r}")
                self._error.__cause__ = error
        self.notify()

    async def until(self, condition: Callable[[], bool], deadline_s: float, what: str) -> None:
        """Waits for `condition`, looked at after every change. Raises DeadlineError, or what `fail` was given."""
        self._raise_failure()
        if not condition():
            await within(deadline_s, f"{self._owner}: {what}", self._wait(condition))

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error
