"""Tests of the pool run on a virtual clock: a busy machine misses none of their short deadlines."""

from __future__ import annotations

from collections.abc import Callable

from doubles.virtual_clock import VirtualClockLoop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], VirtualClockLoop]]:
    return {"virtual": VirtualClockLoop}
