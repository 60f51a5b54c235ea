"""Weights in the memory of a learner's device, which an engine's process on the same device reads there.

    learner rank                               engine's process on that device
    tensors, hashed  ──────── handles ──────►  the same memory ──► tensors, hashed ──► load

On CUDA the tensors stay where they are, and a handle names memory for CUDA's inter-process communication (IPC). On CPUs
they are copied into a file in memory, and its path is the handle. torch expects that one process opens a handle, once.
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from actors.interfaces import StagedWeights, TensorEntry, TensorSlice
from actors.weights.fingerprint import combine, tensor_fingerprint
from actors.weights.layout import aligned, announced_bytes, size_bytes
from actors.weights.shared_devices import DeviceMemory, MemoryPart, SharedDevices
from maspo_dist.errors import WeightTransferError

#: Place of the device among the arguments of `rebuild_cuda_tensor`.
_DEVICE_ARGUMENT = 6


class SharedTensors:
    """What a learner rank shares: one set of tensors at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._file: int | None = None

    def share(
        self, version: int, entries: Sequence[TensorEntry], tensors: Iterable[tuple[str, Tensor]]
    ) -> StagedWeights:
        """Shares `tensors`, which are `entries`, until `clear`. On CUDA they may not be moved or freed until then.

        Raises WeightTransferError when the device cannot share its memory.
        """
        self.clear()
        share = self._in_place if self._device.type == "cuda" else self._copied
        try:
            slices, parts, fingerprints = share(entries, tensors)
        except (RuntimeError, OSError) as error:
            raise WeightTransferError(f"{device_name(self._device)} cannot share its memory: {error}") from error
        memory = DeviceMemory(device=device_name(self._device), parts=tuple(parts))
        shared = SharedDevices(devices=(memory,), fingerprint=combine(fingerprints))
        return StagedWeights(version=version, entries=tuple(slices), source=shared)

    def clear(self) -> None:
        """Frees the copies. Call it when no engine reads them."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _in_place(
        self, entries: Sequence[TensorEntry], tensors: Iterable[tuple[str, Tensor]]
    ) -> tuple[list[TensorSlice], list[MemoryPart], list[int]]:
        """One part per storage."""
        slices: list[TensorSlice] = []
        parts: list[MemoryPart] = []
        fingerprints: list[int] = []
        starts: dict[int, int] = {}
        end = 0
        for entry, (name, tensor) in zip(entries, tensors, strict=True):
            if not tensor.is_contiguous():
                raise RuntimeError(f"{name} is not contiguous")
            fingerprints.append(tensor_fingerprint(announced_bytes(entry, name, tensor)))
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in starts:
                starts[storage.data_ptr()], end = end, end + storage.nbytes()
                parts.append(MemoryPart(handle=_cuda_handle(storage), size_bytes=storage.nbytes()))
            offset = starts[storage.data_ptr()] + int(tensor.storage_offset()) * tensor.element_size()
            slices.append((*entry, offset))
        # An engine reads this memory, so its computation must have ended. The engine also needs the memory that hashing
        # used, so it is given back.
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return slices, parts, fingerprints

    def _copied(
        self, entries: Sequence[TensorEntry], tensors: Iterable[tuple[str, Tensor]]
    ) -> tuple[list[TensorSlice], list[MemoryPart], list[int]]:
        """One part, a file in memory."""
        *starts, end = itertools.accumulate((aligned(size_bytes(entry)) for entry in entries), initial=0)
        self._file = os.memfd_create("maspo-weights", os.MFD_CLOEXEC)
        os.ftruncate(self._file, end)
        memory = torch.frombuffer(mmap.mmap(self._file, end), dtype=torch.uint8)
        slices: list[TensorSlice] = []
        fingerprints: list[int] = []
        for entry, start, (name, tensor) in zip(entries, starts, tensors, strict=True):
            copy = memory[start : start + size_bytes(entry)]
            copy.copy_(announced_bytes(entry, name, tensor))
            fingerprints.append(tensor_fingerprint(copy))
            slices.append((*entry, start))
        handle = f"{os.fstat(self._file).st_ino} /proc/{os.getpid()}/fd/{self._file}".encode()
        return slices, [MemoryPart(handle=handle, size_bytes=end)], fingerprints


class OpenedMemory:
    """The memory of `device` that a learner rank shares. Call `close` when nothing reads it any more."""

    def __init__(self, shared: SharedDevices, device: torch.device) -> None:
        """Raises WeightTransferError when no rank has the device, or its memory cannot be opened."""
        self._shared = shared
        self._device = device
        memory, self._parts = _opened(shared, device)
        self._starts = list(itertools.accumulate((part.size_bytes for part in memory.parts), initial=0))

    def read(self, slices: Sequence[TensorSlice]) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, tensor); the tensors are views.

        After the last tensor it raises WeightTransferError if this memory differs from what the learner shared.
        """
        fingerprints = []
        for name, dtype, shape, offset in slices:
            index = bisect_right(self._starts, offset) - 1
            start = offset - self._starts[index]
            data = self._parts[index][start : start + size_bytes((name, dtype, shape))]
            fingerprints.append(tensor_fingerprint(data))
            yield name, data.view(getattr(torch, dtype)).view(tuple(shape))
        if combine(fingerprints) != self._shared.fingerprint:
            raise WeightTransferError(f"{device_name(self._device)} holds other bytes than the learner shared")

    def close(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._parts = []


def device_name(device: torch.device) -> str:
    """The same in every process that sees the device."""
    return "cpu" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)


def _opened(shared: SharedDevices, device: torch.device) -> tuple[DeviceMemory, list[Tensor]]:
    name = device_name(device)
    here = [memory for memory in shared.devices if memory.device == name]
    failure = f"no learner rank has the device {name}"
    for memory in here:
        try:
            return memory, [_open(part, device) for part in memory.parts]
        except (RuntimeError, OSError) as error:
            failure = f"memory that a learner rank shares on {name} cannot be opened: {error}"
    raise WeightTransferError(failure)


def _open(part: MemoryPart, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return _mapped(part)
    arguments = list(pickle.loads(part.handle))
    # The learner may see the device under another number.
    arguments[_DEVICE_ARGUMENT] = device.index or 0
    opened: Tensor = rebuild_cuda_tensor(*arguments)  # type: ignore[no-untyped-call]
    return opened


def _cuda_handle(storage: torch.UntypedStorage) -> bytes:
    whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    _, arguments = reduce_tensor(whole)  # type: ignore[no-untyped-call]
    return pickle.dumps(arguments)


def _mapped(part: MemoryPart) -> Tensor:
    inode, _, path = part.handle.decode().partition(" ")
    # Read and write, since torch refuses read-only buffers; nothing is written.
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_ino != int(inode):
            raise FileNotFoundError(f"{path} is another file")
        return torch.frombuffer(mmap.mmap(descriptor, part.size_bytes), dtype=torch.uint8)
    finally:
        os.close(descriptor)
