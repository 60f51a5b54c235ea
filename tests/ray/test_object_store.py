"""The object store is sized for a publish, and a smaller store on a cluster is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from doubles.loop import make_config

from actors.ray.connection import connect, own_store, small_stores
from maspo_dist.errors import PlacementError
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.object_store import publish_bytes

SEVEN_BILLION = replace(KNOWN_SIZES["deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"], parameters=7_600_000_000)


def node(address: str, store: float, alive: bool = True) -> dict[str, Any]:
    return {"NodeManagerAddress": address, "Alive": alive, "Resources": {"object_store_memory": store}}


def test_a_publish_needs_two_snapshots_and_the_groups_of_all_open_steps() -> None:
    config = make_config(
        model={"dtype": "bfloat16"},
        rollout={"prompts_per_step": 128, "group_size": 16, "max_response_tokens": 8192},
        algorithm={"max_policy_age": 1},
    )
    tokens = 3 * 128 * 16 * 8192
    assert publish_bytes(config, SEVEN_BILLION) == 2 * 15_200_000_000 + 16 * tokens


def test_a_node_whose_store_is_too_small_is_named_with_what_ray_needs() -> None:
    nodes = [node("10.0.0.1", 40e9), node("10.0.0.2", 8e9), node("10.0.0.3", 1e9, alive=False)]
    assert small_stores(nodes, 31_000_000_000) == [
        "the object store of node 10.0.0.2 holds 8.0 GB, but a publish needs 31.0 GB: it will spill to disk; "
        "start Ray there with --object-store-memory=31000000000 and as much /dev/shm"
    ]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sets the bytes of memory and the free bytes of /dev/shm."""

    def set_up(memory: int, shared: int) -> None:
        monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": memory}.__getitem__)
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=shared))

    for name in ("RAY_ADDRESS", "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    return set_up


@pytest.mark.parametrize(
    ("shared", "needed", "given"),
    [
        (10**10, 10**9, 3 * 10**9),
        (10**10, None, 10**9),
        (10**10, 10**12, 4 * 10**9),
        (2 * 10**9, 10**9, 18 * 10**8),
        (10**9, None, 9 * 10**8),
    ],
    ids=["model", "none", "huge", "small shared memory", "none, small shared memory"],
)
def test_an_own_cluster_gets_the_store_that_the_model_needs_within_its_memory(
    monkeypatch: pytest.MonkeyPatch,
    machine: Callable[[int, int], None],
    shared: int,
    needed: int | None,
    given: int,
) -> None:
    options: dict[str, Any] = {}
    machine(10**10, shared)
    monkeypatch.setattr(ray, "init", lambda **named: options.update(named))
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    size, slow = own_store(needed)
    connect("cpu", size)
    assert (options["object_store_memory"], slow) == (given, None)


def test_a_container_with_little_shared_memory_is_told_the_size_that_it_needs(
    machine: Callable[[int, int], None],
) -> None:
    machine(10**11, 64 * 2**20)
    size, slow = own_store(5 * 10**8)
    assert size == 25 * 10**8
    assert slow is not None
    assert "/dev/shm has 60 MB for Ray's object store, but 500 MB are needed: start the container with" in slow
    assert "--shm-size=3g, or enlarge /dev/shm" in slow


def test_a_store_that_ray_would_not_place_on_a_disk_is_refused(
    monkeypatch: pytest.MonkeyPatch, machine: Callable[[int, int], None]
) -> None:
    machine(10**12, 64 * 2**20)
    with pytest.raises(PlacementError, match=r"30,000 MB are needed: start the container with --shm-size=36g"):
        own_store(3 * 10**10)
    monkeypatch.setenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "1")
    assert own_store(3 * 10**10)[0] == 3 * 10**10
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert own_store(3 * 10**10) == (0, None)
