"""A command that gets a signal finishes, or is cancelled and cleans up."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from maspo_dist.runs.interrupt import WatchSignals, until_signal


async def test_work_that_ends_by_itself_was_not_interrupted() -> None:
    async def drive(watch: WatchSignals) -> None:
        await asyncio.sleep(0)

    assert await until_signal(drive) is None


async def test_the_first_signal_cancels_work_that_has_nothing_to_finish() -> None:
    cleaned: list[bool] = []

    async def drive(watch: WatchSignals) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    assert await until_signal(drive) == signal.SIGINT
    assert cleaned == [True]


async def test_work_that_is_asked_to_stop_ends_by_itself() -> None:
    asked = asyncio.Event()

    def request_stop() -> bool:
        asked.set()
        return True

    ended: list[bool] = []

    async def drive(watch: WatchSignals) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asked.wait()
        ended.append(True)

    assert await until_signal(drive, request_stop) == signal.SIGTERM
    assert ended == [True]


@pytest.mark.parametrize("signals", [1, 2])
async def test_work_that_does_not_end_in_time_or_gets_a_second_signal_is_cancelled(signals: int) -> None:
    async def drive(watch: WatchSignals) -> None:
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
        await asyncio.Event().wait()

    grace_s = 0.05 if signals == 1 else 60.0
    assert await asyncio.wait_for(until_signal(drive, lambda: True, grace_s), 30) == signal.SIGTERM


async def test_signal_handlers_that_a_library_replaced_are_installed_again() -> None:
    async def drive(watch: WatchSignals) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
        watch()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    assert await asyncio.wait_for(until_signal(drive), 30) == signal.SIGTERM


async def test_a_cancellation_without_a_signal_is_raised() -> None:
    async def drive(watch: WatchSignals) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await until_signal(drive)
