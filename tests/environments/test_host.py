"""Sessions with real processes: what they answer, and what happens when a process on the way dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from maspo_dist.config import EnvironmentConfig
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.environments.play import play_notes, play_twice
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import ActorDiedError, ConfigError, DeadlineError, EnvironmentFailedError, EnvironmentLostError

OWN = "python:doubles.own_environments:"


def task(reference: str = "5", seed: int = 1) -> Task:
    return Task(prompt_id="p", reference=reference, source="test", seed=seed)


def config(name: str, **keys: Any) -> EnvironmentConfig:
    return EnvironmentConfig.model_validate({"kind": OWN + name, "step_timeout_s": 20.0, **keys})


@asynccontextmanager
async def host_of(name: str, quiet_s: float = 60.0, **keys: Any) -> AsyncIterator[ForkedEnvironments]:
    host = ForkedEnvironments(config(name, **keys), quiet_s=quiet_s, start_timeout_s=60.0)
    keeper = None
    try:
        await host.start()
        keeper = keeper_of(host)
        yield host
    finally:
        await host.aclose()
        assert keeper is None or not keeper.is_running()


def keeper_of(host: ForkedEnvironments) -> psutil.Process:
    assert host._link is not None
    return psutil.Process(host._link.pid)


async def server_is_gone(host: ForkedEnvironments) -> None:
    async with asyncio.timeout(30):
        while host._link is not None and host._link.death is None:  # noqa: ASYNC110 (processes set no event)
            await asyncio.sleep(0.01)


async def test_a_session_answers_and_others_do_not_see_it() -> None:
    async with host_of("HigherLower") as host:
        low, high = await host.open(task("5")), await host.open(task("50"))
        assert await low.step("9") == Step(observation="lower", reward=0.0)
        assert await high.step("9") == Step(observation="higher", reward=0.0)
        assert await low.step("five") == Step(observation="a number, please", metrics={"unreadable": 1.0})
        assert await low.step("5") == Step(observation="right", done=True, reward=1.0)
        for session in (low, high, low):
            await session.close()
        with pytest.raises(EnvironmentFailedError, match="the session has ended"):
            await low.step("5")


async def test_chance_comes_from_the_seed_of_the_task() -> None:
    async with host_of("Dice") as host:
        throws = []
        for seed in (1, 1, 2):
            session = await host.open(task(seed=seed))
            throws.append([(await session.step("")).observation for _ in range(3)])
            await session.close()
    assert throws[0] == throws[1] != throws[2]


@pytest.mark.parametrize("reward", [1e39, -1e39, float("inf"), float("nan")])
def test_a_step_whose_reward_cannot_be_trained_on_is_refused(reward: float) -> None:
    with pytest.raises(ValueError, match=r"^reward is -?(1e\+39|inf|nan), not a number within ±1e\+18$"):
        Step(reward=reward)


async def test_threads_that_do_not_fit_into_the_memory_are_named_so() -> None:
    async with host_of("Hostile", memory_mb=64) as host:
        session = await host.open(task())
        with pytest.raises(
            EnvironmentFailedError, match=r"out of memory \(environment\.memory_mb is 64, .+, the stacks of threads"
        ):
            await session.step("threads")


async def test_further_sessions_wait_for_room() -> None:
    async with host_of("HigherLower", processes=2) as host:
        first, second = [await host.open(task()) for _ in range(2)]
        third = asyncio.create_task(host.open(task()))
        await asyncio.sleep(0.1)
        assert not third.done()
        await first.close()
        await (await third).close()
        await second.close()


async def test_a_wait_for_room_ends_when_nothing_moves() -> None:
    async with host_of("HigherLower", processes=1, quiet_s=0.2) as host:
        session = await host.open(task())
        with pytest.raises(
            DeadlineError, match=r"prompt p: none of the 1 open ones \(environment.processes\) answered"
        ):
            await host.open(task())
        await session.close()


async def test_a_server_that_dies_costs_the_open_sessions_only_and_too_many_deaths_the_host() -> None:
    async with host_of("HigherLower") as host:
        for death in range(3):
            sessions = [await host.open(task()) for _ in range(3)]
            keeper = keeper_of(host)
            (server,) = keeper.children()
            (keeper if death == 1 else server).kill()
            await server_is_gone(host)
            for session in sessions:
                with pytest.raises(EnvironmentLostError, match=r"^the process that forks environments ended: "):
                    await session.step("5")
            assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
        with pytest.raises(ActorDiedError, match="died 3 times in a row, the last time killed by signal 9"):
            await host.open(task())


async def test_a_session_in_order_forgives_earlier_deaths() -> None:
    async with host_of("HigherLower") as host:
        for _ in range(4):
            session = await host.open(task())
            await session.close()
            keeper_of(host).children()[0].kill()
            await server_is_gone(host)


async def test_an_environment_that_cannot_be_imported_is_refused_at_the_start() -> None:
    for name, sentence in (
        ("python:no_such_module:Game", "importing no_such_module fails"),
        ("python:doubles.thread_on_import:HigherLower", "importing what it names starts 1 threads, which a fork would"),
    ):
        host = ForkedEnvironments(EnvironmentConfig(kind=name), quiet_s=1.0, start_timeout_s=60.0)
        with pytest.raises(ConfigError, match=sentence):
            await host.start()
        await host.aclose()


async def test_a_cancelled_step_leaves_no_process() -> None:
    async with host_of("Hostile") as host:
        session = await host.open(task())
        (server,) = keeper_of(host).children()
        step = asyncio.create_task(session.step("children"))
        # Its process and two children, one of them in a session of its own.
        async with asyncio.timeout(30):
            while len(started := server.children(recursive=True)) < 3:  # noqa: ASYNC110 (processes set no event)
                await asyncio.sleep(0.05)
        step.cancel()
        await asyncio.wait([step])
        await session.close()
        assert (await asyncio.to_thread(psutil.wait_procs, started, 5))[1] == []


OWNER = """
import asyncio, sys, time
from maspo_dist.config import EnvironmentConfig
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.environments.protocol import Task

async def main():
    config = EnvironmentConfig(kind="python:doubles.own_environments:Hostile")
    host = ForkedEnvironments(config, quiet_s=60, start_timeout_s=60)
    sessions = [await host.open(Task(prompt_id="p", reference="5", source="", seed=1)) for _ in range(4)]
    steps = [asyncio.create_task(s.step(r)) for s, r in zip(sessions, ("daemon", "children", "spin", ""))]
    await asyncio.sleep(1)
    print(host._link.pid, flush=True)
    time.sleep(600)

asyncio.run(main())
"""


def test_the_processes_end_with_a_killed_owner() -> None:
    paths = os.pathsep.join(filter(None, sys.path))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert owner.stdout is not None
    keeper = psutil.Process(int(owner.stdout.readline()))
    started = keeper.children(recursive=True)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    # The server, four environments, two children and a daemon.
    assert len(started) >= 8
    _, alive = psutil.wait_procs([keeper, *started], timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("HigherLower", None),
        ("Dice", None),
        ("Restless", "with the same responses differ in turn 2: observation '"),
        (
            "Fragile",
            "prompt p fails in turn 2 (step: ValueError: invalid literal for int() with base 10: 'Let me think.'): it "
            "must answer any response",
        ),
    ],
)
def test_two_plays_show_what_breaks_the_contract(name: str, note: str | None) -> None:
    [plays] = play_twice(config(name), [task()])
    notes = list(play_notes(config(name), *plays))
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]
