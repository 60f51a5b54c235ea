"""The environment and the places of a run's actors."""

from __future__ import annotations

import os

import pytest
import ray
from doubles.loop import make_config
from ray.util.placement_group import PlacementGroup

from actors.ray.actor_options import bundle_options, share_of_cores
from actors.ray.placement_groups import bundles_by_node
from maspo_dist.planning.placement import Bundle

BUNDLE = Bundle(role="learner", count=1, cpus=1.0, gpus=0, memory_bytes=0, what="")


def environment(configured: dict[str, str], own: dict[str, str]) -> dict[str, str]:
    options = bundle_options(PlacementGroup.empty(), 0, BUNDLE, configured, own)
    variables: dict[str, str] = options["runtime_env"]["env_vars"]
    return variables


def test_an_actor_gets_the_settings_of_nccl_and_of_the_hub_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("NCCL_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NEAR_NCCL", "x")
    assert environment({}, {}) == {"NCCL_SOCKET_IFNAME": "eth1", "HF_HUB_OFFLINE": "1"}


def test_the_configured_environment_is_merged_over_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth1")
    configured = make_config(cluster={"environment": {"NCCL_SOCKET_IFNAME": "ib0", "NCCL_IB_DISABLE": 1}}).cluster
    merged = environment(configured.environment, {"OMP_NUM_THREADS": "2", "NCCL_IB_DISABLE": "0"})
    assert merged["NCCL_SOCKET_IFNAME"] == "ib0"
    assert merged["NCCL_IB_DISABLE"] == "1"
    assert merged["OMP_NUM_THREADS"] == "2"


def test_an_environment_that_is_not_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"environment\.NCCL_DEBUG"):
        make_config(cluster={"environment": {"NCCL_DEBUG": ["INFO"]}})


def test_ranks_of_a_node_follow_each_other_and_rank_0_keeps_its_node() -> None:
    assert bundles_by_node({0: "a", 1: "b", 2: "a", 3: "b", 4: "verifier"}, 4) == [0, 2, 1, 3]
    assert bundles_by_node({0: "b", 1: "a", 2: "c", 3: "b", 4: "a"}, 5) == [0, 3, 1, 4, 2]


def test_the_cores_of_nodes_with_gpus_are_shared_by_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's node, a head without GPUs, does not count."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0}},
        {"Alive": True, "Resources": {"CPU": 192.0, "GPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 48.0, "GPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert share_of_cores("cuda", 16) == 240 // 12
    assert [share_of_cores("cpu", processes) for processes in (1, 3, 40)] == [16, 5, 1]
    monkeypatch.setattr(ray, "nodes", lambda: nodes[:1])
    assert share_of_cores("cuda", 1) == 1
