"""Notices that the run makes no progress, names the open waits, and acts.

progress unchanged for stall_timeout_s ──► event with the open waits, stacks to the log files ──► by policy
    restart: the oldest wait ends as if by its deadline, so that the caller recovers as usual
    fail:    StallError ends the run            report: nothing more
progress while stacks are written ends the stall: no action is taken
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from actors.ray.waits import open_waits
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import StallError
from maspo_dist.flow.failures import after_stall
from maspo_dist.types import Event

#: Checks of progress per stall time-out.
_LOOKS = 10


async def watch(
    config: ClusterConfig,
    progress: Callable[[], object],
    dump_stacks: Callable[[], Awaitable[None]],
    on_event: Callable[[Event], None],
) -> None:
    """Runs until cancelled. `progress` gives a value that changes whenever the run makes progress."""
    loop = asyncio.get_running_loop()
    seen, since_s = progress(), loop.time()
    while True:
        await asyncio.sleep(config.stall_timeout_s / _LOOKS)
        now = progress()
        if now != seen:
            seen, since_s = now, loop.time()
            continue
        stalled_s = loop.time() - since_s
        if stalled_s < config.stall_timeout_s:
            continue
        waits = open_waits()
        verdict = after_stall(tuple(wait.what for wait in waits), stalled_s, config.on_stall)
        on_event(
            Event(
                kind="stalled",
                message=f"{verdict.message}; stacks of all processes are in logs/",
                details=(("action", verdict.action), ("stalled_s", stalled_s)),
            )
        )
        await dump_stacks()
        if progress() != seen:
            continue
        if verdict.action == "fail":
            raise StallError(verdict.message)
        if verdict.action == "restart":
            still_open = open_waits()
            if oldest := next((wait for wait in waits if wait in still_open), None):
                oldest.expire()
        since_s = loop.time()
