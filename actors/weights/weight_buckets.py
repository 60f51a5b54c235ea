"""Weights on their way into the object store: tensors' bytes, several to an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from actors.interfaces import Body, WeightSnapshot
from actors.weights.fingerprint import ByteArray, combine, fingerprint

#: A bucket closes before it would pass this; a larger tensor gets one of its own.
BUCKET_BYTES = 64 << 20


class BucketWriter:
    """Gathers tensors into buckets; one is handed over while the next is filled, so that no more than two are held.

    `put` runs in a thread and must have taken its copy when it returns. A tensor in this machine's memory is read
    where it lies, so it may not change before `finish` is back.
    """

    def __init__(self, put: Callable[[Sequence[ByteArray]], Body], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._put = put
        self._bucket_bytes = bucket_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="buckets")
        self._bucket: list[ByteArray] = []
        self._bucket_size_bytes = 0
        self._entries: list[tuple[str, str, tuple[int, ...]]] = []
        self._fingerprints: list[int] = []
        self._sent: list[Future[Body]] = []
        self._total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Puts `tensor`, of any dtype and device, behind what is there."""
        part = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        if self._bucket and self._bucket_size_bytes + part.size > self._bucket_bytes:
            self._close()
        self._bucket.append(part)
        self._bucket_size_bytes += part.size
        self._total_bytes += part.size
        self._entries.append((name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)))
        self._fingerprints.append(fingerprint(part))

    def finish(self, version: int) -> WeightSnapshot:
        """What was added, as policy version `version`; the writer is empty again."""
        self._close()
        snapshot = WeightSnapshot(
            version=version,
            entries=tuple(self._entries),
            buckets=tuple(sent.result() for sent in self._sent),
            fingerprint=combine(self._fingerprints),
            total_bytes=self._total_bytes,
        )
        self._entries, self._fingerprints, self._sent, self._total_bytes = [], [], [], 0
        return snapshot

    def _close(self) -> None:
        if self._bucket:
            wait(self._sent[-1:])
            self._sent.append(self._thread.submit(self._put, self._bucket))
        self._bucket, self._bucket_size_bytes = [], 0
