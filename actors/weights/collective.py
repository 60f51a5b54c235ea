"""Weights over a process group: learner rank 0 broadcasts buckets of bytes to the processes of all engines at once.

    learner rank 0                                       process of an engine
    have all begun?  ◄─────────── store ───────────────  begun
    tensors ──► bucket, hashed ──► broadcast ──►  fresh bucket, hashed ──► tensors ──► load
    hash of all hashes ──────────► broadcast ──►  is it the same?
    have all finished?  ◄──────── store ───────────────  finished

Both sides cut the same buckets from the same entries. An engine keeps views of a bucket until it has all tensors of a
layer, so the memory of a bucket is used again only when no tensor views it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import Work

from actors.interfaces import TensorEntry, TensorSlice
from actors.weights.fingerprint import combine, tensor_fingerprint
from actors.weights.group import GroupMember
from actors.weights.layout import aligned, announced_bytes, size_bytes
from maspo_dist.errors import WeightTransferError

#: By kind of device. A bucket is closed before it would grow past this; a larger tensor gets its own. Rank 0 copies
#: tensors that share a bucket. Copies take long on CPUs, so there only small tensors share a bucket.
BUCKET_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
#: Buckets in flight while rank 0 fills the next bucket.
_IN_FLIGHT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Tensors that travel together, at offsets in `size_bytes` bytes."""

    slices: tuple[TensorSlice, ...]
    size_bytes: int


def cut(entries: Sequence[TensorEntry], bucket_bytes: int) -> Iterator[Bucket]:
    """The buckets of `entries`, in order."""
    slices: list[TensorSlice] = []
    end = 0
    for name, dtype, shape in entries:
        start = aligned(end)
        size = size_bytes((name, dtype, shape))
        if slices and start + size > bucket_bytes:
            yield Bucket(slices=tuple(slices), size_bytes=end)
            slices, start = [], 0
        slices.append((name, dtype, shape, start))
        end = start + size
    if slices:
        yield Bucket(slices=tuple(slices), size_bytes=end)


def send(
    member: GroupMember, number: int, entries: Sequence[TensorEntry], tensors: Iterator[tuple[str, Tensor]]
) -> None:
    """Sends `tensors` as broadcast `number` of the group; returns when all members have them. Called by rank 0.

    Raises WeightTransferError, and ValueError when `tensors` are not `entries`.
    """
    engines = range(1, 1 + member.group.engine_ranks)
    member.extend(member.group.deadline_s)
    member.until_reported(begun(number), engines, "all engines to begin")
    member.extend(member.group.deadline_s)
    works: deque[tuple[Tensor, Work]] = deque()

    def start(buffer: Tensor) -> None:
        works.append((buffer, member.broadcast(buffer)))

    def wait(in_flight: int) -> None:
        while len(works) > in_flight:
            member.wait(works.popleft()[1], "the bytes to be sent")

    fingerprints: list[int] = []
    memory = _Memory(member.device)
    for bucket in cut(entries, BUCKET_BYTES[member.device.type]):
        if len(bucket.slices) == 1:
            # Sent from its own memory, which may be freed when the next tensor is made.
            data = _bytes_of(bucket.slices[0], tensors)
            start(data)
            fingerprints.append(tensor_fingerprint(data))
            wait(0)
            continue
        buffer = memory.take(bucket.size_bytes)
        for part in bucket.slices:
            data, offset = _bytes_of(part, tensors), part[3]
            copy = buffer[offset : offset + data.numel()]
            copy.copy_(data)
            fingerprints.append(tensor_fingerprint(copy))
        start(buffer)
        wait(_IN_FLIGHT)
    start(_hash_tensor(fingerprints, member.device))
    wait(0)
    member.until_reported(finished(number), engines, "all engines to have all bytes")


def receive(member: GroupMember, number: int, entries: Sequence[TensorEntry]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) of broadcast `number` as the tensors arrive. Called by every rank but 0.

    The tensors are views of buckets. Raises WeightTransferError; after the last tensor also if the bytes differ from
    what rank 0 sent.
    """
    # Rank 0 waits for the last engine to begin, then for the bytes.
    member.extend(2 * member.group.deadline_s)
    member.report(begun(number))
    fingerprints: list[int] = []
    for bucket, buffer, work in _each_ahead(_expected(member, entries)):
        member.wait(work, "bytes from rank 0")
        for name, dtype, shape, offset in bucket.slices:
            part = buffer[offset : offset + size_bytes((name, dtype, shape))]
            fingerprints.append(tensor_fingerprint(part))
            yield name, part.view(getattr(torch, dtype)).view(shape)
    ours, sent = _hash_tensor(fingerprints, member.device), torch.zeros(1, dtype=torch.int64, device=member.device)
    member.wait(member.broadcast(sent), "the hash from rank 0")
    if not torch.equal(ours, sent):
        raise WeightTransferError(f"rank {member.rank} of {member.group.name} received other bytes than were sent")
    member.report(finished(number))


def begun(number: int) -> str:
    """What a member reports when it is ready to receive broadcast `number`."""
    return f"begun-{number}"


def finished(number: int) -> str:
    """What a member reports when it has all bytes of broadcast `number`."""
    return f"finished-{number}"


class _Memory:
    """Memory of buckets. On CPUs it is reused: fresh pages from the kernel take longer than sending the bytes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[Tensor] = []

    def take(self, size_bytes: int) -> Tensor:
        """`size_bytes` bytes that no other tensor views."""
        usual_bytes = BUCKET_BYTES[self._device.type]
        if self._device.type != "cpu" or size_bytes > usual_bytes:
            return torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
        memory = self._free.pop() if self._free else torch.empty(usual_bytes, dtype=torch.uint8)
        # The tensor and its views keep the array alive, so the array is freed with the last of them.
        array = memory[:size_bytes].numpy()
        weakref.finalize(array, self._free.append, memory)
        return torch.from_numpy(array)


def _bytes_of(part: TensorSlice, tensors: Iterator[tuple[str, Tensor]]) -> Tensor:
    """The bytes of the next tensor, u8. Raises ValueError when it is not `part`."""
    return announced_bytes(part[:3], *next(tensors, ("nothing", torch.empty(0))))


def _expected(member: GroupMember, entries: Sequence[TensorEntry]) -> Iterator[tuple[Bucket, Tensor, Work]]:
    memory = _Memory(member.device)
    for bucket in cut(entries, BUCKET_BYTES[member.device.type]):
        buffer = memory.take(bucket.size_bytes)
        yield bucket, buffer, member.broadcast(buffer)


def _each_ahead(parts: Iterable[tuple[Bucket, Tensor, Work]]) -> Iterator[tuple[Bucket, Tensor, Work]]:
    """`parts`, one behind: the next part is already receiving its bytes while the caller loads this part."""
    waiting = None
    for part in parts:
        if waiting is not None:
            yield waiting
        waiting = part
    if waiting is not None:
        yield waiting


def _hash_tensor(fingerprints: list[int], device: torch.device) -> Tensor:
    """The combined fingerprint as i64[1], bit for bit."""
    value = combine(fingerprints)
    return torch.tensor([value - (1 << 64) if value >> 63 else value], dtype=torch.int64, device=device)
