"""Memory that a worker fills with one snapshot of weights, and that the processes of its engine map."""

from __future__ import annotations

import functools
import itertools
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.interfaces import MappedFile, StagedWeights, TensorSlice, WeightSnapshot
from actors.weights.fingerprint import ByteArray, combine, copy_and_fingerprint
from actors.weights.layout import aligned
from maspo_dist.errors import ConfigError, WeightSyncError

if TYPE_CHECKING:
    import torch

#: Tensors that are copied and hashed concurrently.
_COPYING_THREADS = 4


class SharedMemory:
    """Anonymous memory with a path in /proc. It has no other name, so nothing is left when its processes die."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("maspo-weights", os.MFD_CLOEXEC)
        self._path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._memory = np.empty(0, np.uint8)

    def stage(self, snapshot: WeightSnapshot, buckets: Sequence[Sequence[ByteArray]]) -> StagedWeights:
        """Copies the tensors in, each aligned. Raises WeightSyncError if they are not the exported bytes."""
        tensors = [tensor for bucket in buckets for tensor in bucket]
        spaces = [aligned(tensor.size) for tensor in tensors]
        starts = [0, *itertools.accumulate(spaces)]
        self._resize(starts.pop())
        targets = [self._memory[start : start + tensor.size] for start, tensor in zip(starts, tensors, strict=True)]
        with ThreadPoolExecutor(_COPYING_THREADS) as threads:
            fingerprints = list(threads.map(copy_and_fingerprint, tensors, targets))
        if combine(fingerprints) != snapshot.fingerprint:
            raise WeightSyncError(f"received other bytes than were exported for version {snapshot.version}")
        return StagedWeights(
            version=snapshot.version,
            entries=tuple((*entry, start) for entry, start in zip(snapshot.entries, starts, strict=True)),
            source=MappedFile(path=self._path, size_bytes=self._memory.size),
        )

    def _resize(self, size_bytes: int) -> None:
        if size_bytes != self._memory.size:
            os.ftruncate(self._descriptor, size_bytes)
            self._memory = np.frombuffer(mmap.mmap(self._descriptor, size_bytes), np.uint8)

    def close(self) -> None:
        os.close(self._descriptor)


class NeighbourMemory:
    """Memory that another process of this node and user has staged. It outlives that process."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def open(self, file: MappedFile) -> MappedFile:
        """`file` under a path of this process, the same path for the same memory. Raises OSError when it is gone."""
        if self._descriptor is None or not os.path.samestat(Path(file.path).stat(), os.fstat(self._descriptor)):
            descriptor = os.open(file.path, os.O_RDWR | os.O_CLOEXEC)
            self.close()
            self._descriptor = descriptor
        return MappedFile(path=f"/proc/{os.getpid()}/fd/{self._descriptor}", size_bytes=file.size_bytes)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def mapped_file(weights: StagedWeights) -> MappedFile:
    """The file that holds `weights`. Raises ConfigError when their transport left them elsewhere."""
    if not isinstance(weights.source, MappedFile):
        kind = type(weights.source).__name__
        raise ConfigError(f"sync.transport leaves weights as {kind}, but this rollout.backend reads a MappedFile only")
    return weights.source


def read_tensors(file: MappedFile, entries: Sequence[TensorSlice]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (Hugging Face name, tensor); the tensors are views of the mapped memory, without a copy."""
    import torch

    memory = _mapped(file, Path(file.path).stat().st_ino)
    for name, dtype_name, shape, offset in entries:
        dtype = getattr(torch, dtype_name)
        yield name, torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)


@functools.lru_cache(maxsize=1)
def _mapped(file: MappedFile, inode: int) -> mmap.mmap:
    """Kept from publish to publish: mapping takes a third as long as copying the mapped bytes.

    A later file may have the path of a deleted file, but not its inode.
    """
    descriptor = os.open(file.path, os.O_RDWR)
    try:
        # Writable, since torch refuses read-only buffers; nothing is ever written.
        return mmap.mmap(descriptor, file.size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)
