"""How a cluster of this machine's own is started."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray

from actors.ray import connection
from actors.ray.connection import connect
from maspo_dist.errors import PlacementError

NICENESS = "RAY_worker_niceness"
PRESTART = "RAY_prestart_worker_first_driver"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing starts: the tests read the environment that Ray's processes would get."""

    def init(**_: Any) -> None:
        return None

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_workers_of_an_own_cluster_run_at_the_priority_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NICENESS, "")
    monkeypatch.delenv(NICENESS)
    connect("cpu")
    assert os.environ[NICENESS] == "0"


def test_a_niceness_that_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NICENESS, "7")
    connect("cpu")
    assert os.environ[NICENESS] == "7"


def test_an_own_cluster_starts_no_idle_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRESTART, "")
    monkeypatch.delenv(PRESTART)
    connect("cpu")
    assert os.environ[PRESTART] == "0"


def test_a_cluster_that_refuses_to_be_joined_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("\nthe token is wrong\nmore")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(connection, "no_ray_at", lambda address: None)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        PlacementError,
        match=r"^RAY_ADDRESS is 10\.0\.0\.1:6379, but the Ray cluster there cannot be joined: the token is wrong$",
    ):
        connect("cpu")
