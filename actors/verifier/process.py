"""The verifier's process from start to stop, and the watch that restarts it when it hangs.

ping answered by the same process ──► ask which of its verifier processes died; each death becomes an event
ping answered by another process ───► the verifier died and Ray has restarted it
no answer in time ──────────────────► kill it, so that Ray restarts it and repeats its calls
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
from maspo_dist.runs.rows import Event

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
        kept: ActorHandle[Any] | None = None,
    ) -> None:
        """Starts the actor with Ray's `options`; `plain` is its class.

        An actor of an earlier run that was `kept` takes its place; then call `renew`.
        """
        self._cluster = cluster
        self._logs_path = logs_path
        self._is_kept = kept is not None
        self.handle: ActorHandle[Any] = kept or (
            actor_class(plain)
            .options(**options, max_restarts=-1, max_task_retries=3, max_concurrency=CONCURRENT_CALLS)
            .remote(config, logs_path)
        )

    async def renew(self) -> None:
        """Raises ActorDiedError or DeadlineError if a kept actor does not become that of this run."""
        await self._ask("renew", self._cluster.start_timeout_s, self._logs_path)

    async def watch(self, on_event: Callable[[Event], None]) -> None:
        """Runs until cancelled. Raises ActorDiedError or DeadlineError if a start fails or exceeds its timeout."""
        loop = asyncio.get_running_loop()
        start_s, answer_s = self._cluster.start_timeout_s, self._cluster.heartbeat_timeout_s
        pid = await self._ask("ping", start_s)
        answered_s = loop.time()
        while True:
            await asyncio.sleep(self._cluster.heartbeat_s)
            try:
                answering_pid = await self._ask("ping", answer_s)
                for death in await self._ask("take_deaths", answer_s):
                    lost = f"{death.slot}: its process died ({death.reason})"
                    message = f"{lost}; the next process serves after {death.seconds:.1f} s"
                    details = (("slot", death.slot), ("seconds", death.seconds))
                    on_event(Event(kind="verifier_process_lost", message=message, details=details))
            except (ActorDiedError, DeadlineError) as error:
                on_event(Event(kind="verifier_lost", message=f"{error}; it is restarted"))
                if isinstance(error, DeadlineError):
                    ray.kill(self.handle, no_restart=False)
                answering_pid = await self._ask("ping", start_s)
            now_s = loop.time()
            if answering_pid != pid:
                if self._is_kept:
                    # Ray has restarted it as the verifier of the run that made it.
                    await self._ask("renew", answer_s, self._logs_path)
                took_s = now_s - answered_s
                message = f"the verifier was restarted; it answers again after {took_s:.1f} s"
                on_event(Event(kind="verifier_recovered", message=message, details=(("seconds", took_s),)))
            pid, answered_s = answering_pid, now_s

    async def dump_stacks(self) -> None:
        """Makes the verifier write the stacks of its threads to its log file."""
        # Ask now: Ray may have restarted the verifier in another process.
        process: ActorProcess = await self.handle.process.remote()
        await run_beside(process, dump_stacks, process.pid)

    async def stop(self) -> None:
        """Ends the verifier and its processes. Raises DeadlineError or ActorDiedError when it had to be killed."""
        try:
            await self._ask("stop", _STOP_S)
        finally:
            ray.kill(self.handle)

    async def _ask(self, method: str, timeout_s: float, *arguments: object) -> Any:
        return await within(timeout_s, f"verifier: {method}", getattr(self.handle, method).remote(*arguments))
