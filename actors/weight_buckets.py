"""Tensors laid end to end in u8 buckets, the form in which weights travel."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import Tensor

from actors.boundaries import Body, WeightSnapshot
from actors.weight_sync import ByteArray, combine, fingerprint

#: Start of every tensor within its bucket, in bytes.
ALIGNMENT_BYTES = 64
#: A bucket closes before it would pass this; a larger tensor gets one of its own.
BUCKET_BYTES = 64 << 20

Entry = tuple[str, str, tuple[int, ...], int, int]


class BucketWriter:
    """Fills a bucket while the one before is hashed and handed over; `finish` leaves it ready for other weights.

    `put` runs in a thread and must have taken its copy when it returns: the memory is used again, since fresh
    pages cost more than the copy itself.
    """

    def __init__(self, put: Callable[[ByteArray], Body], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._put = put
        self._bucket_bytes = bucket_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="buckets")
        # The first is being filled; the other may still be on its way.
        self._memories = [np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)]
        self._used = 0
        self._entries: list[Entry] = []
        self._sent: list[Future[tuple[int, Body]]] = []
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Copies `tensor`, of any dtype and device, behind what is there."""
        size = tensor.numel() * tensor.element_size()
        start = -(-self._used // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if self._used and start + size > self._bucket_bytes:
            self._close()
            start = 0
        if start + size > self._memories[0].size:
            self._grow(max(self._bucket_bytes, start + size))
        memory = self._memories[0]
        # Between tensors lies padding, which the fingerprint sees.
        memory[self._used : start] = 0
        place = torch.from_numpy(memory[start : start + size])
        place.view(tensor.dtype).copy_(tensor.detach().reshape(-1))
        dtype = str(tensor.dtype).removeprefix("torch.")
        self._entries.append((name, dtype, tuple(tensor.shape), len(self._sent), start))
        self._used = start + size

    def finish(self) -> tuple[tuple[Entry, ...], tuple[Body, ...], list[int], int]:
        """(entries, buckets, fingerprint of each bucket, bytes of all buckets)."""
        if self._used:
            self._close()
        sent = [future.result() for future in self._sent]
        entries, total = tuple(self._entries), self._total
        self._entries, self._sent, self._total = [], [], 0
        return entries, tuple(body for _, body in sent), [value for value, _ in sent], total

    def _grow(self, size: int) -> None:
        memory = np.empty(size, dtype=np.uint8)
        memory[: self._used] = self._memories[0][: self._used]
        self._memories[0] = memory

    def _close(self) -> None:
        if self._sent:
            # It holds the memory that is filled next.
            wait(self._sent[-1:])
        bucket = self._memories[0][: self._used]
        self._sent.append(self._thread.submit(self._hand_over, bucket))
        self._total += bucket.size
        self._memories.reverse()
        self._used = 0

    def _hand_over(self, bucket: ByteArray) -> tuple[int, Body]:
        return fingerprint(bucket), self._put(bucket)


def snapshot_of(writer: BucketWriter, version: int) -> WeightSnapshot:
    """What was added to `writer`, as policy version `version`."""
    entries, buckets, fingerprints, total_bytes = writer.finish()
    return WeightSnapshot(
        version=version,
        entries=entries,
        buckets=buckets,
        fingerprint=combine(fingerprints),
        total_bytes=total_bytes,
    )


def read_buckets(entries: tuple[Entry, ...], buckets: tuple[ByteArray, ...]) -> list[tuple[str, Tensor]]:
    """(name, tensor) for every entry; tensors share the buckets' memory and must not be written to."""
    tensors = []
    for name, dtype_name, shape, bucket, offset in entries:
        dtype: torch.dtype = getattr(torch, dtype_name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        part = buckets[bucket][offset : offset + size]
        tensors.append((name, torch.from_numpy(part).view(dtype).view(shape)))
    return tensors
