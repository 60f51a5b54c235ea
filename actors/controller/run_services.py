"""Services that run concurrently with the loop until they are cancelled.

watch             the watchdog: detects a stall and acts on it
write_live        the live status
follow_requests   requests to scale from other shells
follow_drains     nodes that leave the cluster
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

from ray.actor import ActorHandle

from actors.interfaces import RolloutPool
from actors.ray.waits import cancel_all, open_waits, within
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import ActorDiedError, DeadlineError, StallError
from maspo_dist.flow.failures import after_stall
from maspo_dist.runs.exporter import Exporter
from maspo_dist.runs.interrupt import Interruption
from maspo_dist.runs.live import LiveStatus, Standing
from maspo_dist.runs.rows import Event

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Looks at the progress per stall time-out, at least.
_LOOKS = 10
_LIVE_S = 1.0
_CONTROL_S = 1.0
_CONTROL_DEADLINE_S = 30.0
#: Seconds that are kept for the clean-up when a node leaves, but at most a quarter of what is left.
_CLEAN_UP_S = 5.0


async def beside(work: Coroutine[Any, Any, T], *services: Coroutine[Any, Any, None]) -> T:
    """The result of `work`. The services run until `work` ends; a service that raises cancels `work` with its error."""
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


async def watch(
    config: ClusterConfig,
    progress: Callable[[], object],
    dump_stacks: Callable[[], Awaitable[None]],
    on_event: Callable[[Event], None],
) -> None:
    """The watchdog: notices that the run makes no progress, names the open waits, and acts by `on_stall`.

    progress unchanged for stall_timeout_s ──► event with the open waits, stacks to the log files ──► by policy
        restart: the oldest wait ends as if by its deadline, so that the caller recovers as usual
        fail:    StallError ends the run            report: nothing more
    progress while stacks are written ends the stall: no action is taken
    the wait for a node that a worker would start on is spare: it is not named, and does not end

    `progress` returns a value that changes whenever the run makes progress.
    """
    loop = asyncio.get_running_loop()
    seen, since_s = progress(), loop.time()
    while True:
        left_s = since_s + config.stall_timeout_s - loop.time()
        await asyncio.sleep(min(left_s, config.stall_timeout_s / _LOOKS, config.heartbeat_s / 2))
        if (now := progress()) != seen:
            seen, since_s = now, loop.time()
        stalled_s = loop.time() - since_s
        if stalled_s < config.stall_timeout_s:
            continue
        waits = [wait for wait in open_waits() if not wait.is_spare]
        verdict = after_stall(tuple(wait.what for wait in waits), stalled_s, config.on_stall)
        message = f"{verdict.message}; stacks of all processes are in logs/"
        details = (("action", verdict.action), ("stalled_s", stalled_s))
        on_event(Event(kind="stalled", message=message, details=details))
        await dump_stacks()
        if progress() != seen:
            continue
        if verdict.action == "fail":
            raise StallError(verdict.message)
        if verdict.action == "restart":
            still_open = set(open_waits())
            if oldest := next((wait for wait in waits if wait in still_open), None):
                oldest.expire()
        since_s = loop.time()


async def write_live(
    path: Path, standing: Callable[[], Standing], pool: RolloutPool, exporter: Exporter | None = None
) -> None:
    """Keeps live.json and the exporter up to date. The run goes on when the disk is full."""
    loop = asyncio.get_running_loop()
    while True:
        waits = tuple((wait.what, loop.time() - wait.since_s) for wait in open_waits()[:8])
        live = LiveStatus(
            time=time.time(),
            standing=standing(),
            workers=pool.status(),
            waits=waits,
            metrics_url=exporter.url if exporter else None,
        )
        if exporter is not None:
            exporter.observe(live)
        try:
            await asyncio.to_thread(live.write, path)
        except OSError as error:
            logger.warning("live status not written: %s", error)
        await asyncio.sleep(_LIVE_S)


async def follow_drains(
    leaving_nodes: Callable[[], Mapping[str, float]],
    own_nodes: Callable[[], Set[str]],
    pool: RolloutPool,
    interruption: Interruption,
    on_event: Callable[[Event], None],
) -> None:
    """Moves rollout workers from nodes that leave the cluster; ends the run in time when its own leave.

    `leaving_nodes` returns the seconds left, by node id; `own_nodes` the nodes of the learners and the controller. Both
    ask the cluster, in a thread. Workers on the run's own nodes stay, so that the last step can end.
    """

    def look() -> tuple[Mapping[str, float], list[float]]:
        leaving = leaving_nodes()
        own = leaving.keys() & own_nodes() if leaving else set()
        others = {node: left_s for node, left_s in leaving.items() if node not in own}
        return others, [leaving[node] for node in own]

    is_told = False
    while True:
        try:
            leaving, own_left_s = await within(_CONTROL_DEADLINE_S, "cluster: its nodes", asyncio.to_thread(look))
        except (ActorDiedError, DeadlineError) as error:
            logger.warning("the cluster does not say which nodes leave: %s", error)
            leaving, own_left_s = {}, []
        pool.leave_nodes(leaving)
        if own_left_s:
            left_s = min(own_left_s)
            if not is_told:
                is_told = True
                seconds = f"in {left_s:.0f} s" if left_s < math.inf else "soon"
                message = f"a node of the learners or the controller leaves {seconds}; the run saves and ends"
                on_event(Event(kind="node_leaves", message=message))
            interruption.leave_within(left_s - min(_CLEAN_UP_S, left_s / 4))
        await asyncio.sleep(_CONTROL_S)


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
