"""`maspo-dist scale`: asks a live run for another number of rollout workers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from actors.ray.connection import connect_to_run, disconnect
from actors.ray.control import find_control
from actors.ray.waits import within
from maspo_dist.errors import PlacementError, UserError
from maspo_dist.runs.folder import RunFolder

#: Longest wait for the new number; a new worker must start its engine.
_WAIT_S = 600.0
_POLL_S = 1.0
_ANSWER_S = 30.0


def request_workers(run: str, workers: int, tell: Callable[[str], None]) -> None:
    """Sends the request, and passes the number of serving workers to `tell` until it is the requested one.

    Raises UserError where no such run is live, DeadlineError or ActorDiedError when the run ends meanwhile.
    """
    folder = RunFolder.open_for_reading(Path(run)) if Path(run).is_dir() else None
    name = folder.name if folder else Path(run).name
    address = (folder.read_address() if folder else None) or os.environ.get("RAY_ADDRESS")
    try:
        connect_to_run(address)
    except PlacementError as error:
        if folder is None:
            raise UserError(f"{run} is no run folder, and no run is found by its name: {error}") from None
        # Only now: where a file system has no locks, a live run seems to have ended.
        if not folder.in_use:
            raise UserError(f"run {name} is not running: only a live run can be scaled, so resume it first") from None
        raise
    try:
        asyncio.run(_request(name, workers, tell))
    finally:
        disconnect()


async def _request(name: str, workers: int, tell: Callable[[str], None]) -> None:
    control = find_control(name)
    await within(_ANSWER_S, f"run {name}: request for workers", control.request_workers.remote(workers))
    tell(f"asked {name} for {workers} rollout workers")
    deadline_s = time.monotonic() + _WAIT_S
    told = -1
    # The run reads the request within a second; its count may be of the old number until then.
    await asyncio.sleep(2 * _POLL_S)
    while time.monotonic() < deadline_s:
        serving: int = await within(_ANSWER_S, f"run {name}: number of serving workers", control.serving.remote())
        if serving != told:
            tell(f"{serving} of {workers} workers serve")
            told = serving
        if serving == workers:
            return
        await asyncio.sleep(_POLL_S)
    tell(f"{told} of {workers} workers serve after {_WAIT_S:g} s; the run keeps trying, see its events.jsonl")
