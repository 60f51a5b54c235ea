"""`maspo-dist scale`: asks a live run, on whatever cluster it is, for another number of rollout workers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from actors.ray.connection import connect_to_run, disconnect
from actors.ray.control import find_control
from actors.ray.waits import within
from maspo_dist.runs.folder import RunFolder

#: A new worker has its engine to start.
_TOLD_S = 600.0
_LOOK_S = 1.0
_ANSWER_S = 30.0


def request_workers(run: str, workers: int, tell: Callable[[str], None]) -> None:
    """Hands the request over and tells how the number of serving workers changes, until it is as asked.

    Raises PlacementError where no such run is live, DeadlineError or ActorDiedError when it ends meanwhile.
    """
    name, address = Path(run).name, os.environ.get("RAY_ADDRESS")
    if Path(run).is_dir():
        folder = RunFolder.open_for_reading(Path(run))
        name, address = folder.name, folder.read_address() or address
    connect_to_run(address)
    try:
        asyncio.run(_request(name, workers, tell))
    finally:
        disconnect()


async def _request(name: str, workers: int, tell: Callable[[str], None]) -> None:
    control = find_control(name)
    await within(_ANSWER_S, f"run {name}: to take the request", control.request_workers.remote(workers))
    tell(f"asked {name} for {workers} rollout workers")
    deadline_s = time.monotonic() + _TOLD_S
    told = -1
    # The run takes the request within a second, and only then does its count say anything.
    await asyncio.sleep(2 * _LOOK_S)
    while time.monotonic() < deadline_s:
        serving: int = await within(_ANSWER_S, f"run {name}: how many serve", control.serving.remote())
        if serving != told:
            tell(f"{serving} of {workers} serve")
            told = serving
        if serving == workers:
            return
        await asyncio.sleep(_LOOK_S)
    tell(f"{told} of {workers} serve after {_TOLD_S:g} s; the run goes on trying, see its events.jsonl")
