"""An asyncio event loop on which time passes only while all tasks wait: deterministic, hours in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class NothingScheduledError(AssertionError):
    """Every task waits for something that nothing is going to do."""


class _NoWaiting(selectors.BaseSelector):
    """Watches no files. Asked to wait, it moves the clock instead."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingScheduledError("no timer is set and no task can run: the run stands still for ever")
        self.now_s += max(0.0, timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0. Work meant for threads runs at once, in place."""

    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except OSError as error:
            future.set_exception(error)
        return future


def run_virtually(work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """The result of `work`; TimeoutError when it takes more than `limit_s` of virtual time."""
    loop = VirtualClockLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work, limit_s))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
