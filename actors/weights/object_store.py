"""Weights through Ray's object store: the learner puts them in buckets, each worker copies them into shared memory.

learner rank 0: tensors ──► buckets of bytes ──► object store ──► worker: shared memory ──► engine's processes
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import ray

from actors.interfaces import Body, StagedWeights, WeightSnapshot
from actors.weights.fingerprint import ByteArray, combine, fingerprint
from actors.weights.shared_memory import SharedMemory
from maspo_dist.errors import LearnerLostError

if TYPE_CHECKING:
    from torch import Tensor

#: A bucket is closed before it would grow past this; a larger tensor gets its own.
BUCKET_BYTES = 64 << 20

Put = Callable[[Sequence[ByteArray]], Body]


class ObjectStoreTransport:
    """Implements `interfaces.WeightTransport`. A worker that joins later receives the same snapshot."""

    def __init__(self, put: Put = ray.put) -> None:
        """`put` places a bucket in the object store and must have copied it when it returns."""
        self._put = put
        self._memory = SharedMemory()

    def export(self, version: int, tensors: Iterable[tuple[str, Tensor]], rank: int) -> WeightSnapshot | None:
        if rank == 0:
            return write_buckets(version, tensors, self._put)
        for _ in tensors:
            # Other ranks only take part in gathering each tensor.
            pass
        return None

    async def receive(self, snapshot: WeightSnapshot) -> StagedWeights:
        try:
            buckets: list[Sequence[ByteArray]] = await asyncio.gather(*snapshot.payload)
        except ray.exceptions.ObjectLostError as error:
            raise LearnerLostError(
                f"the weights of policy version {snapshot.version} were lost with the learner that held them"
            ) from error
        return await asyncio.to_thread(self._memory.stage, snapshot, buckets)

    def close(self) -> None:
        self._memory.close()


def write_buckets(
    version: int, tensors: Iterable[tuple[str, Tensor]], put: Put, bucket_bytes: int = BUCKET_BYTES
) -> WeightSnapshot:
    """Puts tensors of any dtype and device into buckets of about `bucket_bytes`.

    One bucket is handed over while the next is filled, so that memory never holds more than two. A tensor in CPU
    memory is not copied first, so it may not change meanwhile.
    """
    import torch  # a worker receives weights without it

    entries: list[tuple[str, str, tuple[int, ...]]] = []
    fingerprints: list[int] = []
    sent: list[Future[Body]] = []
    bucket: list[ByteArray] = []
    with ThreadPoolExecutor(1, thread_name_prefix="buckets") as thread:
        for name, tensor in tensors:
            part = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
            if bucket and sum(held.size for held in bucket) + part.size > bucket_bytes:
                wait(sent[-1:])
                sent.append(thread.submit(put, bucket))
                bucket = []
            bucket.append(part)
            entries.append((name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)))
            fingerprints.append(fingerprint(part))
        if bucket:
            sent.append(thread.submit(put, bucket))
    payload = tuple(future.result() for future in sent)
    return WeightSnapshot(version=version, entries=tuple(entries), payload=payload, fingerprint=combine(fingerprints))
