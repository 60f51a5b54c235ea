"""Looks after the verifier: ends one that hangs, and tells of what died and how long it was gone.

ping answered, same process ──► its reports of dead verifier processes go to the events
ping answered by another one ──► it died and Ray has made it again
no answer in time ────────────► killed, so that Ray makes it again; the calls it held are repeated
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.deadline import within
from actors.verifier_pool import VerifierHealth
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import ActorDiedError, DeadlineError
from maspo_dist.run_folder import Event


async def watch_verifier(verifier: ActorHandle[Any], config: ClusterConfig, on_event: Callable[[Event], None]) -> None:
    """Runs until cancelled. Raises ActorDiedError or DeadlineError when the verifier cannot be started again."""
    loop = asyncio.get_running_loop()
    pid: int | None = None
    answered_s = loop.time()
    while True:
        try:
            health = await _ping(verifier, config.heartbeat_timeout_s)
        except DeadlineError as error:
            on_event(Event(kind="verifier_lost", message=f"{error}; it is killed and starts anew"))
            ray.kill(verifier, no_restart=False)
            health = await _ping(verifier, config.start_timeout_s)
        except ActorDiedError as error:
            on_event(Event(kind="verifier_lost", message=f"{error}; it starts anew"))
            health = await _ping(verifier, config.start_timeout_s)
        now_s = loop.time()
        if pid not in (None, health.pid):
            seconds = now_s - answered_s
            on_event(
                Event(
                    kind="verifier_recovered",
                    message=f"the verifier was started anew and answers {seconds:.1f} s after it last did",
                    details=(("seconds", seconds),),
                )
            )
        for death in health.deaths:
            on_event(
                Event(
                    kind="verifier_process_lost",
                    message=f"{death.slot}: its process died ({death.reason}); the next one serves after "
                    f"{death.seconds:.1f} s",
                    details=(("slot", death.slot), ("seconds", death.seconds)),
                )
            )
        pid, answered_s = health.pid, now_s
        await asyncio.sleep(config.heartbeat_s)


async def _ping(verifier: ActorHandle[Any], timeout_s: float) -> VerifierHealth:
    health: VerifierHealth = await within(timeout_s, "verifier: ping", verifier.ping.remote())
    return health
