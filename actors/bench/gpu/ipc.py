"""Weights that another process reads in this process's memory of the GPU."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from typing import Self

import torch
from torch.multiprocessing import get_context

from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace
from actors.interfaces import StagedWeights
from actors.weights.fingerprint import tensor_fingerprint
from actors.weights.ipc import OpenedMemory, SharedTensors
from actors.weights.layout import entry_of
from actors.weights.shared_devices import SharedDevices
from maspo_dist.planning.placement import Device
from maspo_dist.reward.pool.lifetime import end_with_parent

_TENSORS = 48
_TENSOR_ELEMENTS, _TINY_ELEMENTS = 1 << 25, 1 << 12
_PUBLISHES = 4
_ANSWER_S = 120.0
#: Least rate of a publish, which hashes on both sides: far below the memory rate of a GPU, far above a copy through the
#: host.
_LEAST_GB_PER_S = 100.0


def measure(place: Workplace) -> Measured:
    """Speed of the fastest publish, wrong tensors, and memory that this process still holds at the end."""
    device = place.device
    elements = _TINY_ELEMENTS if place.setting.is_tiny else _TENSOR_ELEMENTS
    # Two buffers hold all tensors, as those of ZeRO do.
    flat = [torch.empty(elements * _TENSORS // 2, dtype=torch.bfloat16, device=device) for _ in range(2)]
    named = {f"weight.{index}": torch.split(flat[index % 2], elements)[index // 2] for index in range(_TENSORS)}
    for index, tensor in enumerate(named.values()):
        tensor.fill_(index)
    entries = [entry_of(*item) for item in named.items()]
    size_bytes = sum(tensor.nbytes for tensor in named.values())
    # The factors of the hash stay on the device from the first hash on.
    tensor_fingerprint(flat[0][:1].view(torch.uint8))
    wrong, before_bytes, seconds = 0, _held_bytes(device), []
    shared = SharedTensors(device)
    with _Reader(place.setting.device) as reader:
        for version in range(1 + _PUBLISHES):
            started_s = time.perf_counter()
            wrong += reader.wrong(shared.share(version, entries, named.items()))
            shared.clear()
            seconds.append(time.perf_counter() - started_s)
    figures: dict[str, Figure] = {
        "gigabytes": size_bytes / 1e9,
        "gb_per_s": size_bytes / 1e9 / min(seconds[1:]),
        "tensors_wrong": wrong,
        "bytes_left": _held_bytes(device) - before_bytes,
    }
    limits = [Limit(figure="tensors_wrong", most=0), Limit(figure="bytes_left", most=0)]
    if place.setting.judges_speed:
        limits.append(Limit(figure="gb_per_s", least=_LEAST_GB_PER_S))
    return Measured(figures=figures, limits=tuple(limits))


def _held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


class _Reader:
    """A process that reads on the same device, as an engine does."""

    def __init__(self, device: Device) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, device, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def wrong(self, weights: StagedWeights) -> int:
        """How many tensors it reads with other values than were shared."""
        self._pipe.send((weights.source, weights.entries))
        if not self._pipe.poll(_ANSWER_S):
            raise RuntimeError(f"the process that reads the memory did not answer within {_ANSWER_S:g} s")
        wrong: int = self._pipe.recv()
        return wrong


def _serve(pipe: Connection, device: Device, parent: int) -> None:
    end_with_parent(parent)
    here = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
    while True:
        source, entries = pipe.recv()
        assert isinstance(source, SharedDevices)
        memory = OpenedMemory(source, here)
        wrong = sum(bool((tensor != index).any()) for index, (_, tensor) in enumerate(memory.read(entries)))
        memory.close()
        pipe.send(wrong)
