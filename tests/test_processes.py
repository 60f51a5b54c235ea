"""What a run's processes are given when they start."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles.loop import make_config

from actors import processes
from actors.processes import RunCluster
from maspo_dist.errors import PlacementError
from maspo_dist.models.size import KNOWN_SIZES


class PortTask:
    """Stands for Ray's task that looks for a port: keeps its arguments, and finds the port in use."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    def options(self, **_: object) -> "PortTask":
        return self

    async def remote(self, port: int, release_s: float) -> str:
        self.asked.append((port, release_s))
        raise PlacementError("in use")


async def is_placed(*_: object) -> None:
    """Every node of the group is there."""


async def test_a_restart_of_the_learners_waits_for_a_port_that_a_killed_rank_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = PortTask()
    monkeypatch.setattr(processes.ray, "remote", lambda _: task)
    monkeypatch.setattr(processes, "placement_group_table", lambda _: {"bundles_to_node_id": {0: "node"}})
    monkeypatch.setattr(processes, "until_placed", is_placed)
    monkeypatch.setattr(processes, "bundle_options", lambda *_: {"scheduling_strategy": "at rank 0"})
    config, [size, *_] = make_config(cluster={"learner_port": 29500}), KNOWN_SIZES.values()
    cluster = RunCluster(config, size, "cpu", tmp_path, on_event=lambda _: None, waiting_for=lambda _: None)
    monkeypatch.setattr(cluster, "_base", SimpleNamespace())
    for is_started in (False, True):
        monkeypatch.setattr(cluster, "_is_started", is_started)
        with pytest.raises(PlacementError):
            await cluster.learners.start()
    [first, again] = task.asked
    assert first == (29500, 5.0)
    assert again[1] >= 30
