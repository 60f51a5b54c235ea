"""Whether a node can run on the device that the driver of a run has decided on."""

from __future__ import annotations

import ctypes
import re
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from maspo_dist.errors import ConfigError
from maspo_dist.planning.placement import Device

#: Oldest branch of the NVIDIA driver for each major release of CUDA.
_OLDEST_DRIVERS = {12: 525, 13: 580}
#: What vLLM's kernels for CPUs are linked against, and not every image of an operating system holds.
_CPU_LIBRARY = "libnuma.so.1"
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchView:
    """torch on one node, and the GPUs that it can use there.

    cuda     release of CUDA that torch is built for; None for a build without CUDA
    driver   version of the NVIDIA driver; None where there is none
    """

    version: str
    cuda: str | None
    driver: str | None
    gpus: int

    def gpu_obstacle(self) -> str | None:
        """Why torch cannot use a GPU, with the fix; None if it can."""
        if self.cuda is None:
            return f"torch {self.version} is built without CUDA: install the packages of `make setup-gpu`"
        if self.gpus > 0:
            # Also with an older driver, by CUDA's libraries for forward compatibility.
            return None
        oldest = _OLDEST_DRIVERS.get(int(self.cuda.split(".")[0]), max(_OLDEST_DRIVERS.values()))
        if self.driver is None:
            return f"there is no NVIDIA driver: install driver {oldest} or newer, or give the container its GPUs"
        if int(self.driver.split(".")[0]) < oldest:
            return (
                f"the NVIDIA driver is {self.driver}, but torch {self.version} is built for CUDA {self.cuda}: "
                f"update the driver to {oldest} or newer"
            )
        return (
            f"torch {self.version} sees no GPU, though the NVIDIA driver is {self.driver}: "
            "see what nvidia-smi lists there, and what CUDA_VISIBLE_DEVICES is"
        )


def platform_obstacle(device: Device, platform: str) -> str | None:
    """Why a vLLM that runs on `platform`, its name for a kind of device, cannot serve `device`; None if it can."""
    if platform == device:
        return None
    if not platform:
        return "vLLM finds no device that it is built for: install the packages of `make setup`, or with GPUs a driver"
    other, target = ("cuda", "setup") if device == "cpu" else ("cpu", "setup-gpu")
    return f"vLLM runs on {platform}: set model.device={other}, or install the packages of `make {target}`"


def cpu_obstacle() -> str | None:
    """Why vLLM cannot compute on the CPU of this node, with the fix; None if it can."""
    try:
        ctypes.CDLL(_CPU_LIBRARY)
    except OSError:
        return (
            f"{_CPU_LIBRARY} is missing, which vLLM needs on a CPU: install libnuma1 (Debian) or numactl-libs (Fedora)"
        )
    return None


def torch_view() -> TorchView:
    """What torch sees in this process."""
    with warnings.catch_warnings():
        # torch warns of a driver that is too old; `gpu_obstacle` says it with the fix.
        warnings.simplefilter("ignore")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchView(version=torch.__version__, cuda=torch.version.cuda, driver=nvidia_driver(), gpus=gpus)


def nvidia_driver() -> str | None:
    """The version of the NVIDIA driver that this node has loaded."""
    try:
        text = _DRIVER_FILE.read_text()
    except OSError:
        return None
    version = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return version[0] if version else None


def require_torch(device: Device) -> None:
    """Raises ConfigError when `device` is cuda and torch cannot use a GPU in this process."""
    if device == "cuda" and (obstacle := torch_view().gpu_obstacle()):
        _refuse(device, obstacle)


def require_platform(device: Device, platform: str) -> None:
    """Raises ConfigError when vLLM runs on another `platform` in this process than the run's `device`."""
    if obstacle := platform_obstacle(device, platform):
        _refuse(device, obstacle)


def require_libraries(device: Device) -> None:
    """Raises ConfigError when `device` is cpu and vLLM's kernels do not load in this process."""
    if device == "cpu" and (obstacle := cpu_obstacle()):
        _refuse(device, obstacle)


def _refuse(device: Device, obstacle: str) -> None:
    raise ConfigError(f"the run is on {device} (model.device), but on node {socket.gethostname()} {obstacle}")
