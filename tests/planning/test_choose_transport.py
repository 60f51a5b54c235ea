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


def test_auto_broadcasts_to_no_engine_that_shares_its_device() -> None:
    assert choose_transport(make_config(cluster={"layout": "colocated"}), "cuda").name == "object_store"
