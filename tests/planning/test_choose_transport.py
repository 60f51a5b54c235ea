"""What `sync.transport: auto` chooses."""

from __future__ import annotations

import pytest
from doubles.loop import make_config

from maspo_dist.planning.placement import Device
from maspo_dist.planning.transport import choose_transport


@pytest.mark.parametrize(
    ("transport", "backend", "device", "chosen"),
    [
        ("auto", "vllm", "cuda", "collective"),
        ("auto", "vllm", "cpu", "object_store"),
        ("auto", "python:my_module:MyEngine", "cuda", "object_store"),
        ("object_store", "vllm", "cuda", "object_store"),
        ("collective", "vllm", "cpu", "collective"),
    ],
)
def test_auto_broadcasts_to_vllm_on_gpus(transport: str, backend: str, device: Device, chosen: str) -> None:
    config = make_config(sync={"transport": transport}, rollout={"backend": backend})
    assert choose_transport(config, device).name == chosen


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_auto_has_vllm_read_the_memory_of_learners_on_its_devices(device: Device) -> None:
    colocated = {"layout": "colocated"}
    assert choose_transport(make_config(cluster=colocated), device).name == "ipc"
    adapters = {"lora": {"rank": 8}}
    assert choose_transport(make_config(cluster=colocated, learner={"zero_stage": 3}), device).name == "object_store"
    assert choose_transport(make_config(cluster=colocated, learner=adapters), device).name == "object_store"
    own = make_config(cluster=colocated, rollout={"backend": "python:my_module:MyEngine"})
    assert choose_transport(own, device).name == "object_store"
