"""Seconds and peak memory of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from actors.bench.memory import watch_peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The fastest call, and the highest memory above what was held before: of torch's allocator, or of the process."""

    seconds: float
    peak_bytes: int


def cost_of(work: Callable[[], object], device: torch.device, repeats: int = 3) -> Cost:
    """Calls `work` once to warm up, then `repeats` times."""
    work()
    if device.type != "cuda":
        peak = watch_peak()
        seconds = [_wall_s(work) for _ in range(repeats)]
        return Cost(seconds=min(seconds), peak_bytes=peak())
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    seconds = [_device_s(work) for _ in range(repeats)]
    return Cost(seconds=min(seconds), peak_bytes=torch.cuda.max_memory_allocated(device) - before)


def _wall_s(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _device_s(work: Callable[[], object]) -> float:
    """Between two events of the current stream, so the time of its kernels and of the gaps between them."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
