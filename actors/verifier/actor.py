"""The actor that owns the `VerifierPool`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import ray

from actors.interfaces import ActorProcess
from actors.ray.actor_options import answered_by, health_call
from maspo_dist.reward import ProcessDeath, Sample, VerifierConfig, VerifierPool
from maspo_dist.runs.logs import configure_logging, redirect_output
from maspo_dist.types import Verdict


class VerifierActor:
    """An async actor with as many concurrent calls as responses may be in flight: the pool bounds its queue."""

    def __init__(self, config: VerifierConfig, logs_path: Path | None) -> None:
        """Sends the process's output to `logs_path`; None leaves it alone, for tests without a process."""
        if logs_path is not None:
            redirect_output(configure_logging("verifier", logs_path))
        self._pool = VerifierPool(config)
        self._serving = asyncio.get_running_loop()

    async def score(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        """One verdict per sample, in order, when all are there. Raises VerifierError when the run should stop."""
        return tuple(await asyncio.gather(*(self._pool.verify(sample) for sample in samples)))

    @health_call
    async def ping(self) -> int:
        """The process id of this actor. Answers when the event loop that takes samples does."""
        await answered_by(self._serving, asyncio.sleep(0))
        return os.getpid()

    @health_call
    async def idle_s(self) -> float:
        """Seconds since the last verdict, on whatever response. Answers even when the event loop hangs."""
        return self._pool.idle_s

    @health_call
    async def process(self) -> ActorProcess:
        """This actor's process. Answers even when the event loop that takes samples hangs."""
        return ActorProcess(node_id=ray.get_runtime_context().get_node_id(), pid=os.getpid())

    @health_call
    async def take_deaths(self) -> tuple[ProcessDeath, ...]:
        """Verifier processes that died and have been replaced since the last call."""
        return self._pool.take_deaths()

    async def renew(self, logs_path: Path) -> None:
        """Makes this the verifier of another run with an equal `reward`, as if it had just started."""
        redirect_output(configure_logging("verifier", logs_path))
        self._pool.start_over()

    async def stop(self) -> None:
        """Kills the verifier processes."""
        await asyncio.to_thread(self._pool.close)
