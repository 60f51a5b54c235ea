"""A rank that is killed inside a collective: its peers fail before Ray tells of the death."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from doubles.loop import make_config
from doubles.meeting_learner import MeetingLearner
from ray.actor import ActorHandle
from ray.cluster_utils import Cluster

from actors.interfaces import ActorProcess
from actors.learner.group import RayLearnerGroup, by_rank
from actors.ray.actor_options import actor_class
from actors.ray.on_node import free_address, write_token
from maspo_dist.errors import LearnerLostError

#: Ray's own sockets and processes, in a process that joins a cluster again; they are closed when collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

RANKS = 2


class Ranks:
    """Makes the ranks and keeps what is known of the processes of those made last."""

    def __init__(self, logs_path: Path) -> None:
        self.config = make_config()
        self.processes: list[ActorProcess] = []
        self._logs = logs_path

    async def make(self) -> list[ActorHandle[Any]]:
        actor = actor_class(MeetingLearner).options(num_cpus=0)
        learners = [actor.remote(self.config, rank, RANKS, "cpu", self._logs) for rank in range(RANKS)]
        address = free_address(None)
        token = write_token(self._logs)
        self.processes = await by_rank([learner.start.remote(address, token) for learner in learners], "start", 60)
        return learners


@pytest.fixture
def ranks(ray_cluster: Cluster, tmp_path: Path) -> Iterator[Ranks]:
    ray.init(ray_cluster.address, log_to_driver=False)
    try:
        yield Ranks(tmp_path)
    finally:
        ray.shutdown()


def rounds(count: int) -> list[np.ndarray]:
    return [np.asarray([count], np.int32)]


async def kill_unnoticed(pid: int, for_s: float) -> None:
    """Its parent, the raylet, is slow to tell; its peers' connections break at once."""
    raylet = psutil.Process(pid).parent()
    raylet.suspend()
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(for_s)
    raylet.resume()


async def test_whichever_rank_is_killed_is_named_and_the_group_restarts(ranks: Ranks) -> None:
    group = RayLearnerGroup(ranks.make, ranks.config.cluster)
    await group.start()
    for killed in range(RANKS):
        endless = asyncio.ensure_future(group.probe(rounds(2**30)))
        await asyncio.sleep(0.5)
        await kill_unnoticed(ranks.processes[killed].pid, for_s=1)
        with pytest.raises(LearnerLostError, match=rf"^learner rank {killed}: probe .* died"):
            await asyncio.wait_for(endless, 30)
        await group.restart()
        [met] = await group.probe(rounds(3))
        assert met.tolist() == [RANKS]
    await group.stop()
