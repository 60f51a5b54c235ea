"""The object store is sized for a publish, and a smaller store on a cluster is reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import ray
from doubles.loop import make_config

from actors.processes import publish_bytes
from actors.ray.connection import connect, small_stores
from maspo_dist.models.size import KNOWN_SIZES

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


@pytest.mark.parametrize(
    ("wanted", "given"), [(3 * 10**9, 3 * 10**9), (None, 10**9), (10**12, 4 * 10**9)], ids=["model", "none", "huge"]
)
def test_an_own_cluster_gets_the_store_that_the_model_needs_within_its_memory(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, given: int
) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 10**10}.__getitem__)
    monkeypatch.setattr(ray, "init", lambda **named: options.update(named))
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    connect("cpu", wanted)
    assert options["object_store_memory"] == given
