"""Named waits: each has a deadline and can be listed while it is open. Also helpers for groups of tasks.

within               waits for a result
BreakableCondition   waits for a state that may never come
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from actors.ray.errors import translate_ray_errors
from maspo_dist.errors import ActorDiedError, DeadlineError, MaspoError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class OpenWait:
    """A wait in progress: what it waits for, for how long at most, and since when (event loop time).

    is_spare   the run goes on without what it waits for, so it never explains a stall
    """

    what: str
    seconds: float
    since_s: float
    is_spare: bool
    _timer: asyncio.Timeout = field(repr=False)
    expired: bool = False

    def expire(self) -> None:
        """Ends the wait now with a DeadlineError, unless it has ended or is about to end."""
        # asyncio.Timeout offers no other way to learn that it has ended.
        with suppress(RuntimeError):
            self._timer.reschedule(asyncio.get_running_loop().time())
            self.expired = True


_OPEN: WeakKeyDictionary[asyncio.AbstractEventLoop, set[OpenWait]] = WeakKeyDictionary()


def open_waits() -> list[OpenWait]:
    """The waits of this event loop, oldest first."""
    return sorted(_OPEN.get(asyncio.get_running_loop(), ()), key=lambda wait: wait.since_s)


async def within(
    seconds: float,
    what: str,
    awaitable: Awaitable[T],
    last_progress_s: Callable[[], float] | None = None,
    *,
    is_spare: bool = False,
) -> T:
    """The result of `awaitable`, or an error whose message starts with `what`.

    Raises DeadlineError after `seconds`, and errors of Ray as `translate_ray_errors` says. The seconds count from the
    last progress, if `last_progress_s` says its event loop time. `is_spare` is that of the `OpenWait`.
    """
    loop = asyncio.get_running_loop()
    timer = asyncio.timeout(seconds if last_progress_s is None else None)
    wait = OpenWait(what, seconds, loop.time(), is_spare, timer)
    waits = _OPEN.setdefault(loop, set())
    waits.add(wait)
    looking = None if last_progress_s is None else asyncio.create_task(_end_without_progress(wait, last_progress_s))
    try:
        with translate_ray_errors(what):
            async with timer:
                return await awaitable
    except TimeoutError:
        if not timer.expired():
            raise
        took_s = loop.time() - wait.since_s if wait.expired else seconds
        raise DeadlineError(f"{what}: no answer within {took_s:.4g} s") from None
    finally:
        waits.discard(wait)
        if looking is not None:
            looking.cancel()


async def _end_without_progress(wait: OpenWait, last_progress_s: Callable[[], float]) -> None:
    """Ends `wait` once there is no progress for its `seconds`."""
    loop = asyncio.get_running_loop()
    while (left_s := max(wait.since_s, last_progress_s()) + wait.seconds - loop.time()) > 0:  # noqa: ASYNC110 (time itself)
        await asyncio.sleep(left_s)
    wait.expire()
    wait.expired = last_progress_s() > wait.since_s


class BreakableCondition:
    """Every `notify` makes all waiting tasks check the state again. A broken condition raises its error in all of them,
    now and later.
    """

    def __init__(self, owner: str, describe: Callable[[], str]) -> None:
        """`describe` describes the state; its text ends the message of a missed deadline."""
        self._owner = owner
        self._describe = describe
        #: Set at the next `notify`, and replaced then. Wakes tasks in the order of their arrival.
        self._changed = asyncio.Event()
        self._error: MaspoError | None = None

    def notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

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

    async def until(
        self,
        is_met: Callable[[], bool],
        deadline_s: float,
        what: str,
        last_progress_s: Callable[[], float] | None = None,
    ) -> None:
        """Waits until `is_met()`, checked after every `notify`, as `within` waits. Also raises the error of `fail`."""
        self.raise_failure()
        if is_met():
            return
        try:
            await within(deadline_s, f"{self._owner}: {what}", self._wait(is_met), last_progress_s)
        except DeadlineError as error:
            raise DeadlineError(f"{error} ({self._describe()})") from None

    async def _wait(self, is_met: Callable[[], bool]) -> None:
        while not is_met():
            await self._changed.wait()
            self.raise_failure()


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels `tasks` and waits until all have ended, whatever they raise.

    `asyncio.TaskGroup` would do the same, but raise an ExceptionGroup; callers need the first error itself.
    """
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_ready(starts: Mapping[str, Awaitable[object]], waiting_for: Callable[[str], None]) -> None:
    """Runs `starts` concurrently and reports which still run. The first failure cancels the others and is raised."""
    tasks = {name: asyncio.ensure_future(start) for name, start in starts.items()}
    try:
        while pending := [name for name, task in tasks.items() if not task.done()]:
            waiting_for(f"starting {' and '.join(pending)}")
            done, _ = await asyncio.wait(tasks.values(), timeout=2.0, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
    finally:
        await cancel_all(tasks.values())


async def unless_set(stop: asyncio.Event, work: Awaitable[T], grace_s: float) -> T | None:
    """The result of `work`; None, and `work` cancelled, if it is not done `grace_s` seconds after `stop` is set."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait((task,), timeout=grace_s)
        return task.result() if task.done() else None
    finally:
        await cancel_all((task, stopped))
