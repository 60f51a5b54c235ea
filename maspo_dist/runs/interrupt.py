"""Commands that end in order on SIGINT or SIGTERM: Ctrl-C, `kill`, or a node that is preempted."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

#: Most seconds from the first signal to the end: a preempted node gives 30 s.
GRACE_S = 20.0

WatchSignals = Callable[[], None]


async def until_signal(
    drive: Callable[[WatchSignals], Awaitable[None]],
    request_stop: Callable[[], bool] = lambda: False,
    grace_s: float = GRACE_S,
) -> signal.Signals | None:
    """Awaits `drive`; returns the SIGINT or SIGTERM that ended it, or None.

    The first signal calls `request_stop`. If it returns True, the work has `grace_s` to end by itself. If it returns
    False, after `grace_s`, or at a second signal, `drive` is cancelled, so that its clean-up runs. `drive` gets a
    function that installs the signal handlers again, for use after a library has replaced them.
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
