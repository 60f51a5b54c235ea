"""A stall: its event, what it ends, and what happens if there is progress while stacks are written."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from doubles.loop import FakeLearners, make_controller
from doubles.pool import config, running
from doubles.virtual_clock import run_virtually
from doubles.workers import ScriptedFactory, ScriptedWorker

from actors.controller.run_services import beside, watch
from actors.ray.waits import open_waits, within
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import DeadlineError, StallError
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.rows import Event
from maspo_dist.views.console import open_console

STALL_S = 0.05

OnStall = Literal["restart", "fail", "report"]


class Stage:
    """Two waits that nothing ends, the older for `group 7`, and a watchdog over them."""

    def __init__(self) -> None:
        self.progress = 0
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.dumps = 0
        self.dumped = asyncio.Event()
        self.answers = [asyncio.Event(), asyncio.Event()]
        self.waits = [
            asyncio.ensure_future(within(60, what, answer.wait()))
            for what, answer in zip(("group 7", "update"), self.answers, strict=True)
        ]

    async def while_watched(
        self, on_stall: OnStall, work: Awaitable[object], during_dump: Callable[[], None] = lambda: None
    ) -> None:
        """Watches until `work` ends. Raises what the watchdog does."""

        async def dump_stacks() -> None:
            during_dump()
            self.dumps += 1
            self.dumped.set()
            # What ended has the time to go.
            await asyncio.sleep(STALL_S / 5)

        async def guarded() -> None:
            async with asyncio.timeout(10):
                await work

        config = ClusterConfig(stall_timeout_s=STALL_S, on_stall=on_stall)
        try:
            await beside(guarded(), watch(config, lambda: self.progress, dump_stacks, self.events.put_nowait))
        finally:
            self.outcomes = [wait.exception() if wait.done() else "waits" for wait in self.waits]
            for wait in self.waits:
                wait.cancel()
            await asyncio.gather(*self.waits, return_exceptions=True)

    async def stalls(self, times: int) -> None:
        """Until as many stalls are dealt with."""
        for _ in range(times):
            await self.dumped.wait()
            self.dumped.clear()
        await asyncio.sleep(STALL_S)


async def test_a_stall_names_the_oldest_wait_and_counts_the_others() -> None:
    stage = Stage()
    await stage.while_watched("report", stage.dumped.wait())
    event = stage.events.get_nowait()
    assert event.kind == "stalled"
    assert event.message == "no progress for 0 s; waits for group 7 (and 1 more); stacks of all processes are in logs/"
    assert dict(event.details)["action"] == "report"


async def test_restart_ends_the_oldest_wait_as_its_deadline_would() -> None:
    stage = Stage()
    await stage.while_watched("restart", asyncio.wait(stage.waits[:1]))
    [group, update] = stage.outcomes
    assert isinstance(group, DeadlineError)
    assert str(group).startswith("group 7: no answer within")
    assert update == "waits"


async def test_fail_ends_the_run_with_what_it_waits_for() -> None:
    stage = Stage()
    with pytest.raises(StallError, match=r"waits for group 7 \(and 1 more\)"):
        await stage.while_watched("fail", asyncio.Event().wait())
    assert stage.outcomes == ["waits", "waits"]


async def test_report_writes_an_event_per_stall_and_ends_nothing() -> None:
    stage = Stage()
    await stage.while_watched("report", stage.stalls(2))
    assert stage.events.qsize() >= 2
    assert stage.outcomes == ["waits", "waits"]


async def test_without_an_open_wait_there_is_nothing_to_restart() -> None:
    stage = Stage()
    for answer in stage.answers:
        answer.set()
    with pytest.raises(StallError, match="there is no open wait"):
        await stage.while_watched("restart", asyncio.Event().wait())


async def test_progress_keeps_the_run_alive() -> None:
    stage = Stage()

    async def achieve() -> None:
        for _ in range(40):
            stage.progress += 1
            await asyncio.sleep(STALL_S / 10)

    await stage.while_watched("fail", achieve())
    assert stage.outcomes == ["waits", "waits"]


@pytest.mark.parametrize("on_stall", ["restart", "fail"])
async def test_progress_while_stacks_are_written_ends_the_stall(on_stall: OnStall) -> None:
    stage = Stage()

    def move_on() -> None:
        stage.progress += 1

    await stage.while_watched(on_stall, stage.stalls(2), during_dump=move_on)
    assert stage.dumps >= 2
    assert stage.outcomes == ["waits", "waits"]


async def test_if_the_oldest_wait_ends_while_stacks_are_written_the_next_wait_is_ended() -> None:
    stage = Stage()
    await stage.while_watched("restart", asyncio.wait(stage.waits), during_dump=stage.answers[0].set)
    [group, update] = stage.outcomes
    assert group is None
    assert isinstance(update, DeadlineError)


async def test_a_run_continues_if_all_waits_end_while_stacks_are_written() -> None:
    stage = Stage()

    def answer_all() -> None:
        for answer in stage.answers:
            answer.set()
        # The next stall, with nothing left to wait for, would end the run.
        stage.progress += stage.dumps

    await stage.while_watched("restart", stage.stalls(1), during_dump=answer_all)
    assert stage.outcomes == [None, None]


async def test_ending_a_wait_that_has_ended_is_harmless() -> None:
    answer = asyncio.Event()
    task = asyncio.ensure_future(within(60, "group 7", answer.wait()))
    await asyncio.sleep(0)
    [wait] = open_waits()
    answer.set()
    assert await task
    wait.expire()


async def test_ending_a_wait_twice_is_harmless() -> None:
    task = asyncio.ensure_future(within(60, "group 7", asyncio.Event().wait()))
    await asyncio.sleep(0)
    [wait] = open_waits()
    with pytest.raises(DeadlineError):
        while not task.done():
            wait.expire()
            await asyncio.sleep(0)
        await task


@pytest.mark.parametrize("node_timeout_s", [600, 1200], ids=["a shorter wait for a node", "a longer wait for a node"])
def test_a_learner_that_hangs_is_found_while_the_pool_waits_for_a_node_to_grow(
    tmp_path: Path, node_timeout_s: float
) -> None:
    async def hang() -> tuple[float, list[str]]:
        stall = {"stall_timeout_s": 900, "heartbeat_s": 10, "node_timeout_s": node_timeout_s}
        settings, loop = config({"min": 1, "max": 3}, cluster=stall), asyncio.get_running_loop()
        factory = ScriptedFactory(free=1)
        # Waits in one piece, not by the millisecond.
        factory.start_worker = partial(_start_or_wait, factory, factory.start_worker)  # type: ignore[method-assign]
        stalls: list[Event] = []
        async with running(factory, settings) as (pool, _):
            with RunFolder.create(tmp_path / "run") as folder, open_console("run", 3) as console:
                controller = make_controller(settings, folder, pool, FakeLearners(), console)
                watching = watch(settings.cluster, lambda: controller.progress, _no_stacks, stalls.append)
                watchdog = asyncio.create_task(watching)
                await asyncio.sleep(60)
                started_s = loop.time()
                with pytest.raises(DeadlineError, match="learner rank 0: update"):
                    await within(24 * 3600, "learner rank 0: update (step 7)", asyncio.Event().wait())
                watchdog.cancel()
                return loop.time() - started_s, [event.message for event in stalls]

    took_s, stalls = run_virtually(hang(), 1e6)
    assert took_s <= 1000
    [message] = stalls
    assert message.startswith("no progress for 900 s; waits for learner rank 0: update (step 7)")


async def _no_stacks() -> None:
    return


async def _start_or_wait(
    factory: ScriptedFactory, start: Callable[[int, float], Awaitable[ScriptedWorker]], index: int, place_s: float
) -> ScriptedWorker:
    await asyncio.sleep(place_s if len(factory.living) >= factory.free else 0.0)
    return await start(index, 0.0)
