"""Named waits: each has a deadline, and can be listed while it is open. And helpers for groups of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from actors.ray.errors import translate_ray_errors
from maspo_dist.errors import DeadlineError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class OpenWait:
    """A wait in progress: what it waits for, for how long at most, and since when (event loop time)."""

    what: str
    seconds: float
    since_s: float
    _timer: asyncio.Timeout = field(repr=False)
    expired: bool = False

    def expire(self) -> None:
        """Ends the wait now, as its deadline would: the caller gets the DeadlineError that it handles anyway.

        Does nothing when the wait has ended or is about to end.
        """
        now_s = asyncio.get_running_loop().time()
        # asyncio.Timeout offers no other way to learn that it has ended.
        with suppress(RuntimeError):
            self._timer.reschedule(now_s)
            self.expired = True


_OPEN: dict[asyncio.AbstractEventLoop, set[OpenWait]] = {}


def open_waits() -> list[OpenWait]:
    """The waits of this event loop, oldest first."""
    return sorted(_OPEN.get(asyncio.get_running_loop(), ()), key=lambda wait: wait.since_s)


async def within(seconds: float, what: str, awaitable: Awaitable[T]) -> T:
    """The result of `awaitable`, or an error whose message starts with `what`.

    Raises DeadlineError after `seconds`, and errors of Ray as `translate_ray_errors` says.
    """
    loop = asyncio.get_running_loop()
    timer = asyncio.timeout(seconds)
    wait = OpenWait(what, seconds, loop.time(), timer)
    waits = _OPEN.setdefault(loop, set())
    waits.add(wait)
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
        if not waits:
            _OPEN.pop(loop, None)


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels `tasks` and waits until all have ended, whatever they raise."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_ready(starts: Mapping[str, Awaitable[object]], waiting_for: Callable[[str], None]) -> None:
    """Runs `starts` concurrently, reporting those that still run. The first failure cancels the others."""
    tasks = {name: asyncio.ensure_future(start) for name, start in starts.items()}
    try:
        while pending := [name for name, task in tasks.items() if not task.done()]:
            waiting_for(f"starting {' and '.join(pending)}")
            await asyncio.wait(tasks.values(), timeout=2.0, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks.values():
                if task.done():
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
