"""Weights in memory of a learner's device, which an engine's process on the same device reads in place.

    learner rank                                     engine's process on that device
    tensors ──► memory of the device ──handle──►     the same memory ──► tensors, hashed ──► load

A handle is one of CUDA's inter-process communication (IPC), or on CPUs the path of a file in memory. On CUDA devices
tensors that stay where they are until the next update are shared as they are; all others are copied into one block.
torch counts how often a handle is opened, so each process opens it once.
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
from bisect import bisect_right
from collections import deque
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
        self._held: list[Tensor] = []
        self._file: int | None = None

    def share(
        self, version: int, entries: Sequence[TensorEntry], tensors: Iterable[tuple[str, Tensor]], *, stay: bool
    ) -> StagedWeights:
        """Shares `tensors`, which are `entries`, until `clear`. `stay`: until then they are not moved or freed.

        Gathering a tensor is collective, so all are gathered, also after an error. Raises WeightTransferError when the
        device has no memory left or cannot share it.
        """
        self.clear()
        source = iter(tensors)
        try:
            share = self._as_they_are if stay and self._device.type == "cuda" else self._copied
            slices, parts, fingerprints = share(entries, source)
        except (RuntimeError, OSError) as error:
            self.clear()
            raise WeightTransferError(f"{device_name(self._device)} cannot share its memory: {error}") from error
        finally:
            deque(source, maxlen=0)
        memory = DeviceMemory(device=device_name(self._device), parts=tuple(parts))
        shared = SharedDevices(devices=(memory,), fingerprint=combine(fingerprints))
        return StagedWeights(version=version, entries=tuple(slices), source=shared)

    def clear(self) -> None:
        """Frees copies; no engine may read them any more."""
        copied, self._held = bool(self._held), []
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if copied and self._device.type == "cuda":
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()

    def _as_they_are(
        self, entries: Sequence[TensorEntry], tensors: Iterator[tuple[str, Tensor]]
    ) -> tuple[list[TensorSlice], list[MemoryPart], list[int]]:
        """One part per storage."""
        slices: list[TensorSlice] = []
        parts: list[MemoryPart] = []
        fingerprints: list[int] = []
        starts: dict[int, int] = {}
        end = 0
        for entry, (name, tensor) in zip(entries, tensors, strict=True):
            data, storage = announced_bytes(entry, name, tensor), tensor.untyped_storage()
            if storage.data_ptr() not in starts:
                starts[storage.data_ptr()], end = end, end + storage.nbytes()
                whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
                parts.append(MemoryPart(handle=_cuda_handle(whole), size_bytes=storage.nbytes()))
            offset = starts[storage.data_ptr()] + int(tensor.storage_offset()) * tensor.element_size()
            slices.append((*entry, offset))
            fingerprints.append(tensor_fingerprint(data))
        # An engine reads what this process may still be computing.
        torch.cuda.synchronize(self._device)
        return slices, parts, fingerprints

    def _copied(
        self, entries: Sequence[TensorEntry], tensors: Iterator[tuple[str, Tensor]]
    ) -> tuple[list[TensorSlice], list[MemoryPart], list[int]]:
        """One part, which holds copies."""
        *starts, end = itertools.accumulate((aligned(size_bytes(entry)) for entry in entries), initial=0)
        memory = self._memory(end)
        self._held.append(memory)
        slices: list[TensorSlice] = []
        fingerprints: list[int] = []
        for entry, start, (name, tensor) in zip(entries, starts, tensors, strict=True):
            copy = memory[start : start + size_bytes(entry)]
            copy.copy_(announced_bytes(entry, name, tensor))
            fingerprints.append(tensor_fingerprint(copy))
            slices.append((*entry, start))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return slices, [MemoryPart(handle=self._handle(memory), size_bytes=end)], fingerprints

    def _memory(self, size_bytes: int) -> Tensor:
        if self._device.type == "cuda":
            return torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
        self._file = os.memfd_create("maspo-weights", os.MFD_CLOEXEC)
        os.ftruncate(self._file, size_bytes)
        return torch.frombuffer(mmap.mmap(self._file, size_bytes), dtype=torch.uint8)

    def _handle(self, memory: Tensor) -> bytes:
        if self._file is None:
            return _cuda_handle(memory)
        return f"{os.fstat(self._file).st_ino} /proc/{os.getpid()}/fd/{self._file}".encode()


def read_shared(
    shared: SharedDevices, slices: Sequence[TensorSlice], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) from the memory of `device`; the tensors are views of it.

    Raises WeightTransferError when the memory cannot be opened; after the last tensor also when the bytes are not those
    that were shared.
    """
    memory, parts = _opened(shared, device)
    starts = list(itertools.accumulate((part.size_bytes for part in memory.parts), initial=0))
    fingerprints = []
    for name, dtype, shape, offset in slices:
        index = bisect_right(starts, offset) - 1
        start = offset - starts[index]
        data = parts[index][start : start + size_bytes((name, dtype, shape))]
        fingerprints.append(tensor_fingerprint(data))
        yield name, data.view(getattr(torch, dtype)).view(tuple(shape))
    if combine(fingerprints) != shared.fingerprint:
        raise WeightTransferError(f"{memory.device} holds other bytes than the learner shared")


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


def _cuda_handle(memory: Tensor) -> bytes:
    """Counts as opened once."""
    _, arguments = reduce_tensor(memory)  # type: ignore[no-untyped-call]
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
