"""A verifier that an earlier run left serves the next run, also after Ray has restarted it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.verifier.process import VerifierProcess
from maspo_dist.config import ClusterConfig, VerifierConfig
from maspo_dist.runs.rows import Event


class Handle:
    """In place of an actor's handle: the process `pid`, with the runs that it was made that of."""

    def __init__(self) -> None:
        self.pid = 1
        self.renewed: list[tuple[int, Path]] = []
        self.asked = asyncio.Event()

    def __getattr__(self, method: str) -> Any:
        return Remote(getattr(type(self), f"_{method}").__get__(self))

    async def _ping(self) -> int:
        return self.pid

    async def _take_deaths(self) -> tuple[()]:
        self.asked.set()
        return ()

    async def _renew(self, logs_path: Path) -> None:
        self.renewed.append((self.pid, logs_path))


class Remote:
    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


async def test_a_kept_verifier_is_made_that_of_the_run_and_again_when_ray_restarts_it() -> None:
    handle, logs, events = Handle(), Path("logs"), list[Event]()
    verifier = VerifierProcess(VerifierConfig(), ClusterConfig(heartbeat_s=0.01), logs, {}, kept=handle)  # type: ignore[arg-type]
    assert verifier.handle is handle
    await verifier.renew()
    async with asyncio.timeout(20):
        watching = asyncio.create_task(verifier.watch(events.append))
        await handle.asked.wait()
        assert handle.renewed == [(1, logs)]
        handle.pid = 2
        while not events:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    watching.cancel()
    assert handle.renewed == [(1, logs), (2, logs)]
    assert [event.kind for event in events] == ["verifier_recovered"]
