"""One snapshot of weights in memory that a worker fills and its engine's processes map."""

from __future__ import annotations

import functools
import itertools
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from actors.interfaces import WeightSnapshot
from actors.weights.fingerprint import ByteArray, combine, copy_and_fingerprint
from maspo_dist.errors import WeightSyncError

#: (name, dtype, shape, offset in bytes) of each tensor.
Entries = list[tuple[str, str, list[int], int]]

#: Tensors that are copied and hashed side by side.
_COPYING_THREADS = 4
#: Start of every tensor.
_ALIGNMENT_BYTES = 64


class StagedWeights:
    """Anonymous shared memory that holds one snapshot for the engine's processes to map.

    Reached by path through /proc; it has no name of its own, so nothing is left when processes die.
    """

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("maspo-weights", os.MFD_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._memory = np.empty(0, np.uint8)

    @property
    def size_bytes(self) -> int:
        return self._memory.size

    def stage(self, snapshot: WeightSnapshot, buckets: Sequence[Sequence[ByteArray]], name: str) -> Entries:
        """Copies the tensors in, each aligned; raises WeightSyncError if they are not what was exported."""
        tensors = [tensor for bucket in buckets for tensor in bucket]
        spaces = [-(-tensor.size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for tensor in tensors]
        starts = [0, *itertools.accumulate(spaces)]
        self._make_room(starts.pop())
        places = [self._memory[start : start + tensor.size] for start, tensor in zip(starts, tensors, strict=True)]
        with ThreadPoolExecutor(_COPYING_THREADS) as threads:
            prints = list(threads.map(copy_and_fingerprint, tensors, places))
        if combine(prints) != snapshot.fingerprint:
            raise WeightSyncError(f"{name} received other bytes than were exported for version {snapshot.version}")
        return [
            (entry_name, dtype, list(shape), start)
            for (entry_name, dtype, shape), start in zip(snapshot.entries, starts, strict=True)
        ]

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes != self._memory.size:
            os.ftruncate(self._descriptor, size_bytes)
            self._memory = np.frombuffer(mmap.mmap(self._descriptor, size_bytes), np.uint8)

    def close(self) -> None:
        os.close(self._descriptor)


def read_tensors(path: str, size_bytes: int, entries: Entries) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (Hugging Face name, tensor) over the mapped memory, without a copy; the tensors are views."""
    memory = _mapped(path, Path(path).stat().st_ino, size_bytes)
    for name, dtype_name, shape, offset in entries:
        dtype = getattr(torch, dtype_name)
        yield name, torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)


@functools.lru_cache(maxsize=1)
def _mapped(path: str, inode: int, size_bytes: int) -> mmap.mmap:
    """Kept from publish to publish: mapping takes a third as long as copying what is mapped.

    Another memory may have the path of one that is gone, but not its inode.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        # Writable, since torch refuses read-only buffers; nothing is ever written.
        return mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)
