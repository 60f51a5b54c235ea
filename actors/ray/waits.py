"""Every wait has a deadline and a name, and can be seen while it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from actors.ray.errors import ray_errors
from maspo_dist.errors import DeadlineError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class OpenWait:
    """A wait that is on: what for, since when (event loop time), and the timer that ends it."""

    what: str
    seconds: float
    since_s: float
    _timer: asyncio.Timeout = field(repr=False)
    expired: bool = False

    def expire(self) -> None:
        """Ends the wait now, as its deadline would; whoever waits gets the DeadlineError that it handles anyway.

        Does nothing about one that has ended or is about to.
        """
        now_s = asyncio.get_running_loop().time()
        # An asyncio.Timeout has no other way of telling whether it may still be changed.
        with suppress(RuntimeError):
            self._timer.reschedule(now_s)
            self.expired = True


_OPEN: dict[asyncio.AbstractEventLoop, set[OpenWait]] = {}


def open_waits() -> list[OpenWait]:
    """The waits of this event loop, oldest first."""
    return sorted(_OPEN.get(asyncio.get_running_loop(), ()), key=lambda wait: wait.since_s)


async def within(seconds: float, what: str, awaitable: Awaitable[T]) -> T:
    """The result of `awaitable`, or an error that says what was waited for.

    Raises DeadlineError past `seconds`, ActorDiedError when the actor behind it died, and errors that
    the actor raised on purpose as they were raised there.
    """
    loop = asyncio.get_running_loop()
    timer = asyncio.timeout(seconds)
    wait = OpenWait(what, seconds, loop.time(), timer)
    waits = _OPEN.setdefault(loop, set())
    waits.add(wait)
    try:
        with ray_errors(what):
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


async def all_ready(starts: Mapping[str, Awaitable[object]], waiting_for: Callable[[str], None]) -> None:
    """Waits for all side by side; each has a deadline of its own. The first failure ends the others."""
    tasks = {name: asyncio.ensure_future(start) for name, start in starts.items()}
    try:
        while pending := [name for name, task in tasks.items() if not task.done()]:
            waiting_for(f"starting {' and '.join(pending)}")
            await asyncio.wait(tasks.values(), timeout=2.0, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks.values():
                if task.done():
                    task.result()
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
