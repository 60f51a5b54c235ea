"""A command that gets a signal finishes, or is cancelled and cleans up."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from doubles.virtual_clock import run_virtually

from maspo_dist.runs.interrupt import Interruption, until_signal

_FOR_EVER_S = 3600.0


class Work:
    """Work that ends when it is cancelled, and then cleans up for a second."""

    def __init__(self, signals_s: tuple[float, ...] = (), leaves_within: tuple[float, float] | None = None) -> None:
        self.asked = 0
        self.cancelled_at_s: float | None = None
        self.is_clean = False
        self._signals_s = signals_s
        self._leaves_within = leaves_within

    def request_stop(self) -> float:
        self.asked += 1
        return 20.0

    async def drive(self, interruption: Interruption) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        for at_s in self._signals_s:
            loop.call_later(at_s, interruption.receive, signal.SIGTERM)
        if self._leaves_within is not None:
            at_s, seconds = self._leaves_within
            loop.call_later(at_s, interruption.leave_within, seconds)
        try:
            await asyncio.sleep(_FOR_EVER_S)
        finally:
            self.cancelled_at_s = loop.time() - started_s
            await asyncio.sleep(1.0)
            self.is_clean = True


async def test_work_that_ends_by_itself_was_not_interrupted() -> None:
    async def drive(_: Interruption) -> None:
        await asyncio.sleep(0)

    assert await until_signal(drive) is None


async def test_the_first_signal_cancels_work_that_has_nothing_to_finish() -> None:
    cleaned: list[bool] = []

    async def drive(_: Interruption) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    assert await until_signal(drive) == signal.SIGINT
    assert cleaned == [True]


async def test_work_that_is_asked_to_stop_ends_by_itself() -> None:
    asked = asyncio.Event()

    def request_stop() -> float:
        asked.set()
        return 60.0

    ended: list[bool] = []

    async def drive(_: Interruption) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        await asked.wait()
        await asyncio.sleep(0.01)
        ended.append(True)

    assert await until_signal(drive, request_stop) == signal.SIGTERM
    assert ended == [True]


@pytest.mark.parametrize(
    ("signals_s", "leaves_within", "cancelled_at_s"),
    [
        ((1,), None, 21),
        ((1, 1.5, 3, 5.9), None, 21),
        ((1, 6.5), None, 6.5),
        ((1, 1.5, 12), None, 12),
        ((), (2, 7), 9),
        ((), (2, 90), 22),
        ((1,), (2, 7), 9),
        ((1,), (18, 30), 21),
        ((1,), (2, 18.5), 20.5),
    ],
    ids=[
        "the grace ends",
        "signals of a few seconds are one request",
        "a later signal cancels",
        "a later signal cancels after an echo too",
        "a node leaves",
        "a node leaves after the grace",
        "a node leaves earlier than the grace ends",
        "a node leaves later than the grace ends",
        "the grace does not interrupt the clean-up",
    ],
)
def test_when_work_is_cancelled(
    signals_s: tuple[float, ...], leaves_within: tuple[float, float] | None, cancelled_at_s: float
) -> None:
    work = Work(signals_s, leaves_within)
    assert run_virtually(until_signal(work.drive, work.request_stop), _FOR_EVER_S) == signal.SIGTERM
    assert (work.asked, work.cancelled_at_s, work.is_clean) == (1, cancelled_at_s, True)


async def test_signal_handlers_that_a_library_replaced_are_installed_again() -> None:
    async def drive(interruption: Interruption) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        interruption.watch_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    assert await asyncio.wait_for(until_signal(drive), 30) == signal.SIGTERM


async def test_a_cancellation_without_a_signal_is_raised() -> None:
    async def drive(_: Interruption) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await until_signal(drive)
