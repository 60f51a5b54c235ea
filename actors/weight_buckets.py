"""Tensors laid end to end in u8 buckets, the form in which weights travel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from actors.boundaries import Body
from actors.weight_sync import ByteArray, fingerprint

#: Start of every tensor within its bucket, in bytes.
ALIGNMENT_BYTES = 64
#: A bucket closes before it would pass this; a larger tensor gets one of its own.
BUCKET_BYTES = 256 << 20

Entry = tuple[str, str, tuple[int, ...], int, int]


class BucketWriter:
    """Fills one bucket at a time and hands each over as it closes, so that one is all that is held."""

    def __init__(self, put: Callable[[ByteArray], Body], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._put = put
        self._bucket_bytes = bucket_bytes
        self._open: list[tuple[int, ByteArray]] = []
        self._used = 0
        self._entries: list[Entry] = []
        self._buckets: list[Body] = []
        self._fingerprints: list[int] = []
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Copies `tensor`, of any dtype and device, behind what is there."""
        flat = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().copy()
        start = -(-self._used // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if self._open and start + flat.size > self._bucket_bytes:
            self._close()
            start = 0
        dtype = str(tensor.dtype).removeprefix("torch.")
        self._entries.append((name, dtype, tuple(tensor.shape), len(self._buckets), start))
        self._open.append((start, flat))
        self._used = start + flat.size

    def finish(self) -> tuple[tuple[Entry, ...], tuple[Body, ...], list[int], int]:
        """(entries, buckets, fingerprint of each bucket, bytes of all buckets)."""
        if self._open:
            self._close()
        return tuple(self._entries), tuple(self._buckets), self._fingerprints, self._total

    def _close(self) -> None:
        bucket = np.zeros(self._used, dtype=np.uint8)
        for start, flat in self._open:
            bucket[start : start + flat.size] = flat
        self._fingerprints.append(fingerprint(bucket))
        self._buckets.append(self._put(bucket))
        self._total += bucket.size
        self._open, self._used = [], 0


def read_buckets(entries: tuple[Entry, ...], buckets: tuple[ByteArray, ...]) -> list[tuple[str, Tensor]]:
    """(name, tensor) for every entry; tensors share the buckets' memory and must not be written to."""
    tensors = []
    for name, dtype_name, shape, bucket, offset in entries:
        dtype: torch.dtype = getattr(torch, dtype_name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        part = buckets[bucket][offset : offset + size]
        tensors.append((name, torch.from_numpy(part).view(dtype).view(shape)))
    return tensors
