"""A condition variable that can break: waiting for a change of state that may never come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.ray.waits import within
from maspo_dist.errors import ActorDiedError, DeadlineError, MaspoError


class BreakableCondition:
    """Every `notify` makes all waiting tasks check the state again. A broken condition raises its error in all of them,
    now and later.
    """

    def __init__(self, owner: str, describe: Callable[[], str]) -> None:
        """`describe` describes the state; its text ends the message of a missed deadline."""
        self._owner = owner
        self._describe = describe
        # In the order of arrival, so that a seeded run wakes them in the same order every time.
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._error: MaspoError | None = None

    def notify(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Breaks the condition; the first error stays. An unexpected error is raised as the owner's ActorDiedError."""
        if self._error is None and isinstance(error, MaspoError):
            self._error = error
        elif self._error is None:
            self._error = ActorDiedError(f"{self._owner}: {error!r}")
            self._error.__cause__ = error
        self.notify()

    def raise_failure(self) -> None:
        """Raises the error given to `fail`, if any."""
        if self._error is not None:
            raise self._error

    async def until(self, is_met: Callable[[], bool], deadline_s: float, what: str) -> None:
        """Waits until `is_met()`, checked after every `notify`. Raises DeadlineError, or the error given to `fail`."""
        self.raise_failure()
        if is_met():
            return
        try:
            await within(deadline_s, f"{self._owner}: {what}", self._wait(is_met))
        except DeadlineError as error:
            raise DeadlineError(f"{error} ({self._describe()})") from None

    async def _wait(self, is_met: Callable[[], bool]) -> None:
        while not is_met():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
            self.raise_failure()
