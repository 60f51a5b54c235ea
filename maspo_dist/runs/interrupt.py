"""Commands that end in order on SIGINT or SIGTERM: Ctrl-C, `kill`, a batch system, or a node that leaves."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

#: Signals so soon after the first are the same request: a batch system signals a process, and then its whole group.
_SAME_REQUEST_S = 5.0


class Interruption:
    """The request to end `drive`, made by a signal or by `leave_within`.

    first signal ──► request_stop() returns the seconds in which the work ends by itself; after them it is cancelled
    signals in the next 5 s: the same request        a later signal: the work is cancelled at once

    received   the first signal; None before
    """

    def __init__(
        self, drive: Callable[["Interruption"], Awaitable[None]], request_stop: Callable[[], float] = lambda: 0.0
    ) -> None:
        """Starts `drive`. `request_stop` returns 0 where there is nothing to finish."""
        self.received: signal.Signals | None = None
        self._loop = asyncio.get_running_loop()
        self._request_stop = request_stop
        self._first_s = 0.0
        self._end: asyncio.TimerHandle | None = None
        self.work = asyncio.ensure_future(drive(self))
        self.watch_signals()

    def watch_signals(self) -> None:
        """Installs the signal handlers; call it again after a library has replaced them."""
        for which in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(which, self.receive, which)

    def receive(self, which: signal.Signals) -> None:
        """What a signal does."""
        if self.received is None:
            self.received, self._first_s = which, self._loop.time()
            self._end_within(self._request_stop())
        elif self._loop.time() >= self._first_s + _SAME_REQUEST_S:
            self.work.cancel()

    def leave_within(self, seconds: float) -> None:
        """As a SIGTERM after which the process lives for `seconds`. It also shortens the time of an earlier request."""
        if self.received is None:
            self.receive(signal.SIGTERM)
        self._end_within(seconds)

    def _end_within(self, seconds: float) -> None:
        """Cancels the work after `seconds`, unless that happens earlier. A second time would interrupt its clean-up."""
        if self._end is not None:
            if self._end.when() <= self._loop.time() + seconds:
                return
            self._end.cancel()
        self._end = self._loop.call_later(seconds, self.work.cancel)


async def until_signal(
    drive: Callable[[Interruption], Awaitable[None]], request_stop: Callable[[], float] = lambda: 0.0
) -> signal.Signals | None:
    """Awaits `drive`; returns the SIGINT or SIGTERM that ended it, or None. See `Interruption`."""
    interruption = Interruption(drive, request_stop)
    try:
        await interruption.work
    except asyncio.CancelledError:
        if interruption.received is None:
            raise
    return interruption.received
