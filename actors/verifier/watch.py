"""Looks after the verifier: ends one that hangs, and tells of what died and how long it was gone.

ping answered, same process ──► it is asked which of its verifier processes died; they go to the events
ping answered by another one ──► it died and Ray has made it again
no answer in time ────────────► killed, so that Ray makes it again; the calls it held are repeated
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.ray.waits import within
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import ActorDiedError, DeadlineError
from maspo_dist.reward import ProcessDeath
from maspo_dist.types import Event


async def watch_verifier(verifier: ActorHandle[Any], config: ClusterConfig, on_event: Callable[[Event], None]) -> None:
    """Runs until cancelled. Raises ActorDiedError or DeadlineError when the verifier cannot be started, or started
    again, within `start_timeout_s`.
    """
    loop = asyncio.get_running_loop()
    pid = await _ping(verifier, config.start_timeout_s)
    answered_s = loop.time()
    while True:
        await asyncio.sleep(config.heartbeat_s)
        try:
            answering_pid = await _ping(verifier, config.heartbeat_timeout_s)
            for death in await _take_deaths(verifier, config.heartbeat_timeout_s):
                on_event(_process_lost(death))
        except DeadlineError as error:
            on_event(Event(kind="verifier_lost", message=f"{error}; it is killed and starts anew"))
            ray.kill(verifier, no_restart=False)
            answering_pid = await _ping(verifier, config.start_timeout_s)
        except ActorDiedError as error:
            on_event(Event(kind="verifier_lost", message=f"{error}; it starts anew"))
            answering_pid = await _ping(verifier, config.start_timeout_s)
        now_s = loop.time()
        if answering_pid != pid:
            on_event(_recovered(now_s - answered_s))
        pid, answered_s = answering_pid, now_s


async def _ping(verifier: ActorHandle[Any], timeout_s: float) -> int:
    pid: int = await within(timeout_s, "verifier: ping", verifier.ping.remote())
    return pid


async def _take_deaths(verifier: ActorHandle[Any], timeout_s: float) -> tuple[ProcessDeath, ...]:
    deaths: tuple[ProcessDeath, ...] = await within(timeout_s, "verifier: deaths", verifier.take_deaths.remote())
    return deaths


def _process_lost(death: ProcessDeath) -> Event:
    return Event(
        kind="verifier_process_lost",
        message=f"{death.slot}: its process died ({death.reason}); the next one serves after {death.seconds:.1f} s",
        details=(("slot", death.slot), ("seconds", death.seconds)),
    )


def _recovered(seconds: float) -> Event:
    return Event(
        kind="verifier_recovered",
        message=f"the verifier was started anew and answers {seconds:.1f} s after it last did",
        details=(("seconds", seconds),),
    )
