"""Rollout workers with real vLLM engines, each in a process of its own, without Ray.

pool ──► VllmWorker ──pipe──► process: RolloutActor ──► VllmEngine ──► vLLM's processes
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import signal
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import psutil

from actors.bench.doubles import make_verdict
from actors.interfaces import Body, PublishReport, StagedWeights, WeightUpdate
from actors.rollout.actor import RolloutActor
from doubles.vllm_forks import fork_engines
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ActorDiedError, MaspoError
from maspo_dist.reward.pool.lifetime import end_with_parent
from maspo_dist.types import FloatArray, GroupReport, IntArray, RolloutGroup, RolloutRequest, Verdict


class _Scorer:
    async def score(self, response: str, reference: str, source: str) -> Verdict:
        return make_verdict(0.0)


def _serve(pipe: Connection, config: TrainConfig, index: int) -> None:
    # The server, which ends with the process that started it.
    end_with_parent(os.getppid())
    # As in an actor's process: else vLLM's plugin would look for the process that asked the server for this one.
    multiprocessing.process._parent_process = None  # type: ignore[attr-defined]
    fork_engines()
    with contextlib.suppress(EOFError):
        asyncio.run(_answer(pipe, config, index))


async def _answer(pipe: Connection, config: TrainConfig, index: int) -> None:
    """Answers calls, each a number, a method of the actor and its arguments, until the pipe is closed, and exits."""
    actor = RolloutActor(config, index, "cpu", _Scorer(), Path("logs"))
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks: set[asyncio.Task[None]] = set()

    async def call(number: int, method: str, arguments: tuple[Any, ...]) -> None:
        owner = actor if hasattr(actor, method) else actor._engine
        try:
            answer: object = await getattr(owner, method)(*arguments)
        except MaspoError as error:
            answer = error
        except Exception as error:
            answer = RuntimeError(f"{method}: {error!r}")
        pipe.send((number, answer))

    def read() -> None:
        try:
            task = asyncio.create_task(call(*pipe.recv()))
        except (EOFError, OSError):
            if not closed.done():
                closed.set_result(None)
            return
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_reader(pipe.fileno(), read)
    await closed
    # Exits without clean-up: the engine's processes end with this process, and nothing should wait for them.
    os._exit(0)


@cache
def _forks() -> ForkServerContext:
    """Forks of a server that has imported vLLM, since its import takes longer than all else that an engine does first.

    The server gets the environment of this process as it is at the start of the first worker.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["actors.engines.vllm.engine", "vllm.v1.worker.cpu_worker", __name__])
    return context


class VllmWorker:
    """Implements `interfaces.RolloutWorkerHandle`."""

    figures = None
    node_id = "node"

    def __init__(self, index: int, config: TrainConfig) -> None:
        context = _forks()
        self.name = f"rollout worker {index}"
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, index))
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._is_dead = False
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._read)

    def strike(self, which: signal.Signals) -> None:
        """Strikes the process that computes: the last tensor-parallel rank, or else vLLM's core."""
        assert self._process.pid is not None
        titles = {process: " ".join(process.cmdline()) for process in self._descendants()}
        for title in ("Worker", "EngineCore"):
            if found := [process for process in titles if title in titles[process]]:
                found[-1].send_signal(which)
                return
        raise AssertionError(f"no engine among {sorted(titles.values())}")

    async def start(self) -> None:
        await self._ask("start_engine")

    async def stage(self, update: WeightUpdate) -> StagedWeights:
        return await self._ask("stage", update)

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        return await self._ask("publish", update, staged)

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        return await self._ask("prompt_logprobs", token_ids)

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        return await self._ask("generate", request)

    async def ping(self) -> int:
        tokens, _ = await self._ask("ping")
        return tokens

    async def is_gone_with_its_node(self) -> bool:
        return False

    async def stop(self) -> None:
        await self._ask("stop")

    def kill(self) -> None:
        processes = self._descendants()
        self._process.kill()
        self._process.join()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._lost()

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    async def _ask(self, method: str, *arguments: object) -> Any:
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            if self._is_dead:
                raise OSError("its pipe is closed")
            self._pipe.send((number, method, arguments))
            return await answer
        except OSError as error:
            raise ActorDiedError(f"{self.name}: its process is dead: {error}") from error
        finally:
            self._open.pop(number, None)

    def _read(self) -> None:
        try:
            number, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._lost()
            return
        waiting = self._open.get(number)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _lost(self) -> None:
        if self._is_dead:
            return
        self._is_dead = True
        asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        self._pipe.close()
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(ActorDiedError(f"{self.name}: its process is dead"))


class VllmFactory:
    """Implements `interfaces.WorkerFactory`."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.started: list[VllmWorker] = []

    async def start_worker(self, index: int, place_timeout_s: float) -> VllmWorker:
        worker = VllmWorker(index, self._config)
        self.started.append(worker)
        try:
            await worker.start()
        except BaseException:
            worker.kill()
            raise
        return worker

    async def room(self) -> int:
        return 0

    async def fetch(self, body: Body) -> RolloutGroup:
        assert isinstance(body, RolloutGroup)
        return body

    def store(self, group: RolloutGroup) -> Body:
        return group
