"""Services that run concurrently with the loop: the live status, and requests from other shells."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from ray.actor import ActorHandle

from actors.interfaces import RolloutPool
from actors.ray.waits import cancel_all, open_waits, within
from maspo_dist.errors import ActorDiedError, DeadlineError
from maspo_dist.runs.live import LiveStatus, Standing

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LIVE_S = 1.0
_CONTROL_S = 1.0
_CONTROL_DEADLINE_S = 30.0


async def beside(work: Coroutine[Any, Any, T], *services: Coroutine[Any, Any, None]) -> T:
    """The result of `work`. The services run until it ends; a service that raises cancels it with its error."""
    main = asyncio.ensure_future(work)
    tasks: set[asyncio.Future[Any]] = {main, *map(asyncio.ensure_future, services)}
    running = tasks
    try:
        while not main.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for service in done - {main}:
                service.result()
        return main.result()
    finally:
        await cancel_all(tasks)


async def write_live(path: Path, standing: Callable[[], Standing], pool: RolloutPool) -> None:
    """Keeps live.json up to date. The run goes on when the disk is full."""
    loop = asyncio.get_running_loop()
    while True:
        waits = tuple((wait.what, loop.time() - wait.since_s) for wait in open_waits()[:8])
        live = LiveStatus(time=time.time(), standing=standing(), workers=pool.status(), waits=waits)
        try:
            await asyncio.to_thread(live.write, path)
        except OSError as error:
            logger.warning("live status not written: %s", error)
        await asyncio.sleep(_LIVE_S)


async def follow_requests(control: ActorHandle[Any], pool: RolloutPool) -> None:
    """Scales the pool as `maspo-dist scale` asks."""
    while True:
        serving = sum(worker.state == "serving" for worker in pool.status())
        try:
            request = control.exchange.remote(serving)
            workers: int | None = await within(_CONTROL_DEADLINE_S, "run control: requests", request)
        except (ActorDiedError, DeadlineError) as error:
            logger.warning("requests to scale are no longer received: %s", error)
            return
        if workers is not None:
            pool.scale(workers)
        await asyncio.sleep(_CONTROL_S)
