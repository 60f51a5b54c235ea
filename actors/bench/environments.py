"""What environments cost an engine: 1,000 trajectories of 4 turns at once, each turn with a tool that takes 50 ms.

The engine is a double with the rhythm of a real one: every 25 ms it gives one token to each of at most 256 responses. A
trajectory that waits for its tool leaves its place to another. Two ratios come out: the engine's token rate with tools
against its rate without them, and the steps per second that environment processes can answer against the steps that the
engine asks for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator

from actors.bench.lines import BenchLine, compare
from maspo_dist.config import EnvironmentConfig
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.environments.protocol import Step, Task

_TRAJECTORIES, _TURNS, _TURN_TOKENS = 1_000, 4, 32
_ENGINE_SLOTS, _ENGINE_STEP_S = 256, 0.025
_TOOL_S = 0.05
_START_S, _QUIET_S = 120.0, 60.0


class SlowTool:
    """An environment whose every step waits for `_TOOL_S` seconds."""

    def reset(self, task: Task) -> None:
        pass

    def step(self, response: str) -> Step:
        time.sleep(_TOOL_S)
        return Step(observation="done")


class QuickTool(SlowTool):
    """An environment that answers at once."""

    def step(self, response: str) -> Step:
        return Step(observation="done")


class SteadyEngine:
    """Gives a token per step to each of the oldest responses; `tokens` counts them."""

    def __init__(self) -> None:
        self.tokens = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def generate(self) -> None:
        """One turn of `_TURN_TOKENS` tokens."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    async def run(self) -> None:
        """Serves until cancelled, at a fixed rate: a late step does not delay the steps after it."""
        started, steps = time.perf_counter(), 0
        left: dict[asyncio.Future[None], int] = {}
        while True:
            while len(left) < _ENGINE_SLOTS and self._waiting:
                left[self._waiting.popleft()] = _TURN_TOKENS
            steps += 1
            await asyncio.sleep(max(started + steps * _ENGINE_STEP_S - time.perf_counter(), 0.0))
            self.tokens += len(left)
            left = {turn: tokens - 1 for turn, tokens in left.items()}
            for turn in [turn for turn, tokens in left.items() if not tokens]:
                del left[turn]
                turn.set_result(None)


def run() -> Iterator[BenchLine]:
    """The lines of the bench. Takes about half a minute."""
    alone = asyncio.run(_tokens_per_s(None))
    with_tools = asyncio.run(_tokens_per_s(f"python:{__name__}:SlowTool"))
    case = f"{_TRAJECTORIES:,} trajectories of {_TURNS} turns with a tool of {_TOOL_S * 1e3:.0f} ms, against no tool"
    yield compare("environments", case, with_tools, "tokens/s", alone)
    case = f"steps that {_ENGINE_SLOTS} environments answer, against what the engine asks for"
    yield compare("environments", case, asyncio.run(_steps_per_s()), "steps/s", alone / _TURN_TOKENS)
    opened_s, closed_s = asyncio.run(_open_and_close())
    case = f"{_TRAJECTORIES:,} environments opened (against closed)"
    yield compare("environments", case, _TRAJECTORIES / opened_s, "environments/s", _TRAJECTORIES / closed_s)


async def _tokens_per_s(kind: str | None) -> float:
    """The engine's rate while all trajectories are played, with the environment `kind` or none."""
    engine = SteadyEngine()
    host = None if kind is None else await _started(kind, _TRAJECTORIES)
    serving = asyncio.create_task(engine.run())
    started = time.perf_counter()
    try:
        await asyncio.gather(*(_play(engine, host, number) for number in range(_TRAJECTORIES)))
        return engine.tokens / (time.perf_counter() - started)
    finally:
        serving.cancel()
        if host is not None:
            await host.aclose()


async def _play(engine: SteadyEngine, host: ForkedEnvironments | None, number: int) -> None:
    session = None if host is None else await host.open(_task(number))
    for _ in range(_TURNS):
        await engine.generate()
        if session is not None:
            await session.step("a turn")
    if session is not None:
        await session.close()


async def _steps_per_s(steps: int = 40) -> float:
    host = await _started(f"python:{__name__}:QuickTool", _ENGINE_SLOTS)
    try:
        sessions = await asyncio.gather(*(host.open(_task(number)) for number in range(_ENGINE_SLOTS)))
        started = time.perf_counter()
        for _ in range(steps):
            await asyncio.gather(*(session.step("a turn") for session in sessions))
        return steps * _ENGINE_SLOTS / (time.perf_counter() - started)
    finally:
        await host.aclose()


async def _open_and_close() -> tuple[float, float]:
    host = await _started(f"python:{__name__}:QuickTool", _TRAJECTORIES)
    try:
        started = time.perf_counter()
        sessions = await asyncio.gather(*(host.open(_task(number)) for number in range(_TRAJECTORIES)))
        opened = time.perf_counter()
        for session in sessions:
            await session.close()
        return opened - started, time.perf_counter() - opened
    finally:
        await host.aclose()


async def _started(kind: str, processes: int) -> ForkedEnvironments:
    host = ForkedEnvironments(EnvironmentConfig(kind=kind, processes=processes), _QUIET_S, _START_S)
    await host.start()
    return host


def _task(number: int) -> Task:
    return Task(prompt_id=f"p{number}", reference="", source="bench", seed=number)
