"""On which kind of device vLLM runs in this process."""

from __future__ import annotations

from vllm.platforms import current_platform


def vllm_platform() -> str:
    """vLLM's name for it, such as cpu or cuda; "" where vLLM finds no device that it is built for."""
    name: str = current_platform.device_type
    return name
