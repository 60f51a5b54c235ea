"""The watchdog takes micro-batches for progress: it leaves a slow update alone, and finds an update that stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from doubles.loop import make_config
from doubles.virtual_clock import run_virtually

from actors.controller.run_services import beside, watch
from actors.learner.group import RayLearnerGroup
from actors.ray.waits import within
from maspo_dist.errors import DeadlineError
from maspo_dist.runs.rows import Event

MICRO_BATCH_S = 60.0
CONFIG = make_config(cluster={"stall_timeout_s": 900, "heartbeat_s": 10}).cluster


class RemoteMethod:
    """A method of an actor: `remote` returns something to wait for."""

    def __init__(self, answer: Callable[[], int]) -> None:
        self._answer = answer

    def remote(self) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(self._answer())
        return future


class CountingLearner:
    """A rank in an update: computes a micro-batch per minute for the first `seconds`, then none."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.micro_batches = RemoteMethod(self._count)

    def _count(self) -> int:
        return int(min(asyncio.get_running_loop().time(), self._seconds) / MICRO_BATCH_S)


def update_of(ranks_s: list[float], update_s: float) -> tuple[float, list[Event]]:
    """An update that takes `update_s`, watched: when it ended, and the events of the watchdog."""
    events: list[Event] = []

    async def make() -> list[CountingLearner]:
        return [CountingLearner(seconds) for seconds in ranks_s]

    async def no_stacks() -> None:
        pass

    async def update(group: RayLearnerGroup) -> float:
        with contextlib.suppress(DeadlineError):
            await within(CONFIG.update_timeout_s, "learner rank 0: update", asyncio.sleep(update_s))
        return asyncio.get_running_loop().time()

    async def run() -> float:
        group = RayLearnerGroup(make, CONFIG)  # type: ignore[arg-type]
        await group.start()
        watchdog = watch(CONFIG, lambda: group.achieved, no_stacks, events.append)
        return await beside(update(group), watchdog, group.watch())

    return run_virtually(run(), 10 * CONFIG.stall_timeout_s), events


def test_an_update_that_computes_micro_batches_for_three_stall_timeouts_is_left_alone() -> None:
    seconds = 3 * CONFIG.stall_timeout_s
    ended_s, events = update_of([seconds, seconds], seconds)
    assert ended_s == seconds
    assert not events


def test_an_update_that_stops_is_found_within_a_heartbeat_and_the_stall_timeout() -> None:
    stops_s = 20 * MICRO_BATCH_S
    ended_s, events = update_of([stops_s, stops_s], 3600.0)
    assert stops_s + CONFIG.stall_timeout_s <= ended_s <= stops_s + CONFIG.stall_timeout_s + CONFIG.heartbeat_s
    assert [event.kind for event in events] == ["stalled"]
    assert "waits for learner rank 0: update" in events[0].message


def test_without_the_count_of_micro_batches_the_same_update_stalls() -> None:
    _, events = update_of([0.0, 0.0], 3 * CONFIG.stall_timeout_s)
    assert [event.kind for event in events] == ["stalled"]
