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


@pytest.mark.parametrize(
    ("learner", "backend", "device", "chosen"),
    [
        ({}, "vllm", "cuda", "ipc"),
        ({}, "vllm", "cpu", "object_store"),
        ({}, "python:my_module:MyEngine", "cuda", "object_store"),
        ({"zero_stage": 3}, "vllm", "cuda", "object_store"),
        ({"lora": {"rank": 8}}, "vllm", "cuda", "object_store"),
    ],
)
def test_auto_has_vllm_read_whole_weights_on_the_gpus_that_it_shares_with_learners(
    learner: dict[str, object], backend: str, device: Device, chosen: str
) -> None:
    config = make_config(cluster={"layout": "colocated"}, learner=learner, rollout={"backend": backend})
    assert choose_transport(config, device).name == chosen
