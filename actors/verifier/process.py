"""The verifier's process from start to stop, and the watch that restarts it when it hangs.

ping answered by the same process ──► ask which of its verifier processes died; each death becomes an event
ping answered by another process ───► the verifier died and Ray has restarted it
no answer in time ──────────────────► kill it, so that Ray restarts it and repeats the calls it held
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.interfaces import ActorProcess
from actors.ray.actor_options import CONCURRENT_CALLS, actor_class
from actors.ray.on_node import dump_stacks, run_beside
from actors.ray.waits import within
from actors.verifier.actor import VerifierActor
from maspo_dist.config import ClusterConfig, VerifierConfig
from maspo_dist.errors import ActorDiedError, DeadlineError
from maspo_dist.reward import ProcessDeath
from maspo_dist.types import Event

_STOP_S = 30.0


class VerifierProcess:
    """Owns the verifier's actor. Ray restarts a verifier that dies and repeats its calls: scoring has no state."""

    def __init__(
        self,
        config: VerifierConfig,
        cluster: ClusterConfig,
        logs_path: Path,
        options: Mapping[str, Any],
        plain: type[VerifierActor] = VerifierActor,
    ) -> None:
        """Starts the actor with Ray's `options`; `plain` is its class."""
        self._cluster = cluster
        self.handle: ActorHandle[Any] = (
            actor_class(plain)
            .options(**options, max_restarts=-1, max_task_retries=3, max_concurrency=CONCURRENT_CALLS)
            .remote(config, logs_path)
        )

    async def watch(self, on_event: Callable[[Event], None]) -> None:
        """Runs until cancelled. Raises ActorDiedError or DeadlineError when the verifier does not start, or restart,
        within `start_timeout_s`.
        """
        loop = asyncio.get_running_loop()
        start_s, answer_s = self._cluster.start_timeout_s, self._cluster.heartbeat_timeout_s
        pid = await self._ping(start_s)
        answered_s = loop.time()
        while True:
            await asyncio.sleep(self._cluster.heartbeat_s)
            try:
                answering_pid = await self._ping(answer_s)
                for death in await self._take_deaths(answer_s):
                    on_event(_process_lost(death))
            except (ActorDiedError, DeadlineError) as error:
                on_event(Event(kind="verifier_lost", message=f"{error}; it is restarted"))
                if isinstance(error, DeadlineError):
                    ray.kill(self.handle, no_restart=False)
                answering_pid = await self._ping(start_s)
            now_s = loop.time()
            if answering_pid != pid:
                on_event(_recovered(now_s - answered_s))
            pid, answered_s = answering_pid, now_s

    async def dump_stacks(self) -> None:
        """Makes the verifier write the stacks of its threads to its log file."""
        # Ray may have restarted it in another process.
        process: ActorProcess = await self.handle.process.remote()
        await run_beside(process, dump_stacks, process.pid)

    async def stop(self) -> None:
        """Ends the verifier and its processes. Raises DeadlineError or ActorDiedError when it had to be killed."""
        try:
            await within(_STOP_S, "verifier: stop", self.handle.stop.remote())
        finally:
            ray.kill(self.handle)

    async def _ping(self, timeout_s: float) -> int:
        pid: int = await within(timeout_s, "verifier: ping", self.handle.ping.remote())
        return pid

    async def _take_deaths(self, timeout_s: float) -> tuple[ProcessDeath, ...]:
        deaths: tuple[ProcessDeath, ...] = await within(timeout_s, "verifier: deaths", self.handle.take_deaths.remote())
        return deaths


def _process_lost(death: ProcessDeath) -> Event:
    return Event(
        kind="verifier_process_lost",
        message=f"{death.slot}: its process died ({death.reason}); the next process serves after {death.seconds:.1f} s",
        details=(("slot", death.slot), ("seconds", death.seconds)),
    )


def _recovered(seconds: float) -> Event:
    return Event(
        kind="verifier_recovered",
        message=f"the verifier was restarted; it answers again after {seconds:.1f} s",
        details=(("seconds", seconds),),
    )
