"""Whether an actor is well shows however much it has to do, and does not when its event loop hangs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import ray
from doubles.busy_actors import BusyRolloutActor, BusyVerifier
from doubles.loop import make_config

from actors.ray.actor_options import actor_class
from actors.ray.waits import within
from maspo_dist.config import VerifierConfig
from maspo_dist.errors import DeadlineError
from maspo_dist.reward import Sample

#: Ray's own sockets and processes, in a process that joins a cluster again; they are closed when collected.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.usefixtures("joined")]

_CALLS = 2


def make(plain: type, *arguments: object) -> Any:
    """An actor that takes `_CALLS` calls at once, health calls aside."""
    return actor_class(plain).options(num_cpus=0, max_concurrency=_CALLS).remote(*arguments)


async def until_busy(actor: Any, calls: int = _CALLS) -> None:
    """Polls: an actor cannot call here."""
    while await actor.taken.remote() < calls:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def test_a_verifier_without_a_free_call_answers_its_watch(tmp_path: Path) -> None:
    verifier = make(BusyVerifier, VerifierConfig(), tmp_path)
    waiting = [verifier.score.remote([Sample(response="1", reference="1", source="wait")]) for _ in range(2 * _CALLS)]
    await until_busy(verifier)
    assert await within(10, "ping", verifier.ping.remote()) != os.getpid()
    assert await within(10, "deaths", verifier.take_deaths.remote()) == ()
    assert not ray.wait(waiting, timeout=0)[0]


async def test_a_verifier_whose_event_loop_hangs_answers_no_ping(tmp_path: Path) -> None:
    verifier = make(BusyVerifier, VerifierConfig(), tmp_path)
    await within(60, "ping", verifier.ping.remote())
    verifier.score.remote([Sample(response="1", reference="1", source="hang")])
    await until_busy(verifier, calls=1)
    with pytest.raises(DeadlineError):
        await within(2, "ping", verifier.ping.remote())


async def test_a_rollout_worker_without_a_free_call_answers_its_watch(tmp_path: Path) -> None:
    worker = make(BusyRolloutActor, make_config(), 0, "cpu", None, tmp_path)
    await within(60, "start", worker.start.remote())
    waiting = [worker.generate.remote(None) for _ in range(2 * _CALLS)]
    await until_busy(worker)
    await within(10, "ping", worker.ping.remote())
    assert not ray.wait(waiting, timeout=0)[0]
