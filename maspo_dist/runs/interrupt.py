"""A command that is told to end: by Ctrl-C, by `kill`, or by a node that is taken away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

#: From a request to end to the end, at most: a pre-empted node gives 30 s.
GRACE_S = 20.0

WatchSignals = Callable[[], None]


def _nothing_to_finish() -> bool:
    return False


async def until_signal(
    drive: Callable[[WatchSignals], Awaitable[None]],
    request_stop: Callable[[], bool] = _nothing_to_finish,
    grace_s: float = GRACE_S,
) -> signal.Signals | None:
    """Awaits `drive`; returns the SIGINT or SIGTERM that ended it, or None.

    The first signal calls `request_stop`; where that says that the work will end by itself, it has `grace_s` to do
    so. Otherwise, past that, and at a second signal, `drive` is cancelled, so that its clean-up runs. `drive` gets a
    function that takes the signals again, for when something else took them.
    """
    received: list[signal.Signals] = []
    loop = asyncio.get_running_loop()

    def stop(which: signal.Signals) -> None:
        received.append(which)
        if len(received) == 1 and request_stop():
            loop.call_later(grace_s, task.cancel)
        else:
            task.cancel()

    def watch_signals() -> None:
        for which in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(which, stop, which)

    task = asyncio.ensure_future(drive(watch_signals))
    watch_signals()
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
    return received[0] if received else None
