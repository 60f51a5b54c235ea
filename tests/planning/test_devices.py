"""A node that cannot run on the device of the run is refused with its driver's version and the fix."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from doubles.untrained_demo import save_untrained_demo

from actors.engines.deepspeed.engine import DeepSpeedEngine
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ConfigError
from maspo_dist.planning import devices
from maspo_dist.planning.devices import TorchView, nvidia_driver, platform_obstacle, require_platform, require_torch
from maspo_dist.planning.preflight import prepare

OLD = TorchView(version="2.13.0+cu130", cuda="13.0", driver="550.54.15", gpus=0)


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        (TorchView(version="2.13.0+cu130", cuda="13.0", driver="580.65.06", gpus=8), None),
        # By CUDA's libraries for forward compatibility, and under WSL, where no driver is listed.
        (TorchView(version="2.13.0+cu130", cuda="13.0", driver="550.54.15", gpus=1), None),
        (TorchView(version="2.13.0+cu130", cuda="13.0", driver=None, gpus=1), None),
        (TorchView(version="2.9.1+cu128", cuda="12.8", driver="550.54.15", gpus=1), None),
        (
            OLD,
            "the NVIDIA driver is 550.54.15, but torch 2.13.0+cu130 is built for CUDA 13.0: "
            "update the driver to 580 or newer",
        ),
        (
            TorchView(version="2.13.0+cpu", cuda=None, driver="580.65.06", gpus=0),
            "torch 2.13.0+cpu is built without CUDA: install the packages of `make setup-gpu`",
        ),
        (
            TorchView(version="2.13.0+cu130", cuda="13.0", driver=None, gpus=0),
            "there is no NVIDIA driver: install driver 580 or newer, or give the container its GPUs",
        ),
        (
            TorchView(version="2.13.0+cu130", cuda="13.0", driver="580.65.06", gpus=0),
            "torch 2.13.0+cu130 sees no GPU, though the NVIDIA driver is 580.65.06: "
            "see what nvidia-smi lists there, and what CUDA_VISIBLE_DEVICES is",
        ),
    ],
)
def test_what_keeps_torch_from_a_gpu_is_said_with_the_fix(view: TorchView, sentence: str | None) -> None:
    assert view.gpu_obstacle() == sentence


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs)", "580.65.06"),
        (None, None),
    ],
)
def test_the_driver_is_read_from_the_kernel(
    line: str | None, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_DRIVER_FILE", tmp_path / "version")
    if line is not None:
        (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.2.0\n")
    assert nvidia_driver() == version


def test_a_vllm_of_another_build_is_refused() -> None:
    require_platform("cpu", "cpu")
    with pytest.raises(ConfigError) as refused:
        require_platform("cpu", "cuda")
    assert str(refused.value) == (
        f"the run is on cpu (model.device), but on node {socket.gethostname()} vLLM runs on cuda: "
        "set model.device=cuda, or install the packages of `make setup`"
    )
    assert platform_obstacle("cuda", "") == (
        "vLLM finds no device that it is built for: install the packages of `make setup`, or with GPUs a driver"
    )


def test_a_learner_does_not_fall_back_to_the_cpu_under_an_old_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "torch_view", lambda: OLD)
    with pytest.raises(ConfigError, match=r"the run is on cuda .*the NVIDIA driver is 550\.54\.15"):
        DeepSpeedEngine(make_config(tmp_path), "cuda", 0, 1, "tcp://127.0.0.1:1")
    require_torch("cpu")


def test_an_old_driver_of_this_machine_is_refused_before_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    # The driver library lists GPUs, which CUDA of the build cannot use.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(devices, "torch_view", lambda: OLD)
    with pytest.raises(ConfigError, match="update the driver to 580 or newer"):
        prepare(config)


def test_a_library_that_vllm_lacks_is_named_before_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(devices, "_CPU_LIBRARY", "libmissing.so.1")
    with pytest.raises(ConfigError) as caught:
        prepare(config)
    assert str(caught.value) == (
        f"the run is on cpu (model.device), but on node {socket.gethostname()} libmissing.so.1 is missing, which vLLM "
        "needs on a CPU: install libnuma1 (Debian) or numactl-libs (Fedora)"
    )


def make_config(folder: Path) -> TrainConfig:
    """A configuration of the untrained demo that leaves the device open."""
    save_untrained_demo(folder / "model")
    (folder / "train.jsonl").write_text(json.dumps({"problem": "1+2=", "answer": "3"}) + "\n")
    return TrainConfig.model_validate(
        {
            "run": {"name": "devices", "max_steps": 1},
            "model": {"path": str(folder / "model"), "dtype": "float32", "device": "auto"},
            "data": {"train": [str(folder / "train.jsonl")], "template": "none", "max_prompt_tokens": 64},
            "rollout": {"workers": 1, "group_size": 4, "prompts_per_step": 4, "max_response_tokens": 40},
            "algorithm": {"mini_batches": 2},
        }
    )
