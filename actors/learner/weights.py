"""The weights of a learner rank on their way to engines by `actors.weights.collective` or `actors.weights.ipc`.

Rank 0 serves the store where members of a broadcast meet, sends the weights, and keeps a copy for engines that come
later. Where no engine can get the weights from it, it stores them at once. In a broadcast the other ranks only take
part when a tensor is gathered. By IPC each rank shares all weights.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import ray
import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from actors.interfaces import (
    AnnouncedWeights,
    Broadcast,
    BroadcastGroup,
    SendReport,
    StagedWeights,
    TensorEntry,
    WeightSnapshot,
)
from actors.weights.collective import cut, finished, send
from actors.weights.group import GroupMember, abandon, serve_store
from actors.weights.ipc import SharedTensors
from actors.weights.layout import announced_bytes, entry_of, size_bytes
from actors.weights.object_store import Put, write_buckets
from maspo_dist.errors import WeightTransferError

#: Seconds in which a send notices that its group is abandoned, unless it hangs.
_NOTICE_S = 2.0
#: Of kept tensors that share a piece of memory; a larger tensor gets its own.
_BLOCK_BYTES = 2 << 30


def host_memory(entries: Sequence[TensorEntry], *, is_pinned: bool) -> dict[str, Tensor]:
    """A tensor in the memory of the host for each entry.

    torch rounds each piece of pinned memory up to a power of two, so tensors share pieces of `_BLOCK_BYTES`.
    """
    memory = {}
    for block in cut(entries, _BLOCK_BYTES):
        data = torch.empty(block.size_bytes, dtype=torch.uint8, pin_memory=is_pinned)
        for name, dtype, shape, start in block.slices:
            part = data[start : start + size_bytes((name, dtype, shape))]
            memory[name] = part.view(getattr(torch, dtype)).view(shape)
    return memory


class LearnerWeights:
    """What a rank sends, shares, keeps and stores.

    `send`, `keep` and `store` are collective. Each rank shares for itself. Only rank 0 answers the other calls.
    """

    def __init__(self, rank: int, device: torch.device, address: str, put: Put = ray.put) -> None:
        """`address` is that of this node; `put` places a bucket in the object store."""
        self._rank = rank
        self._device = device
        self._address = address
        self._put = put
        self._store = serve_store(address) if rank == 0 else None
        self._member: GroupMember | None = None
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._entries: Sequence[TensorEntry] = ()
        #: Guards the kept copy: it may not change while it is written to the object store.
        self._lock = threading.Lock()
        self._kept: dict[str, Tensor] = {}
        self._kept_version: int | None = None
        self._stored: WeightSnapshot | None = None
        self._shared = SharedTensors(device)

    def announce(self, version: int, entries: Sequence[TensorEntry]) -> AnnouncedWeights:
        """Weights that the next `send` sends."""
        assert self._store is not None
        self._entries = tuple(entries)
        return AnnouncedWeights(version=version, entries=self._entries, address=self._address, port=self._store.port)

    def send(self, broadcast: Broadcast, tensors: Iterable[tuple[str, Tensor]]) -> SendReport:
        """See `actors.rollout.broadcasts.WeightSender.send`."""
        source = iter(tensors)
        self._is_idle.clear()
        try:
            return self._send(broadcast, source) if self._rank == 0 else SendReport()
        finally:
            self._is_idle.set()
            # Gathering a tensor is collective, so rank 0 gathers all of them, also after a failed broadcast.
            deque(source, maxlen=0)

    def abandon(self, group: BroadcastGroup) -> None:
        """Called from another thread than `send`."""
        assert self._store is not None
        reason = "the broadcast was abandoned"
        abandon(self._store, group, reason)
        if not self._is_idle.wait(_NOTICE_S) and self._member is not None:
            self._member.leave(reason)

    def share(
        self, version: int, entries: Sequence[TensorEntry], tensors: Iterable[tuple[str, Tensor]]
    ) -> StagedWeights:
        """See `SharedTensors.share`."""
        return self._shared.share(version, entries, tensors)

    def unshare(self) -> None:
        """Frees what only `share` needs."""
        self._shared.clear()

    def keep(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copies the announced weights to the memory of the host."""
        with self._lock:
            if self._rank > 0:
                deque(tensors, maxlen=0)
                return
            self._kept_version, self._stored = None, None
            if tuple(entry_of(*item) for item in self._kept.items()) != self._entries:
                self._kept = host_memory(self._entries, is_pinned=self._device.type == "cuda")
            for (name, copy), tensor in zip(self._kept.items(), tensors, strict=True):
                copy.view(-1).view(torch.uint8).copy_(announced_bytes(entry_of(name, copy), *tensor))
            self._kept_version = version

    def store(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Puts the weights into the object store, and frees the copy in the memory of the host."""
        with self._lock:
            self._kept, self._stored, self._kept_version = {}, None, None
            if self._rank > 0:
                deque(tensors, maxlen=0)
                return
            self._stored = write_buckets(version, tensors, self._put)
            self._kept_version = version

    def stored(self, version: int) -> WeightSnapshot | None:
        """See `interfaces.WeightKeeper.stored`; called from another thread than updates."""
        with self._lock:
            if version != self._kept_version:
                return None
            if self._stored is None:
                self._stored = write_buckets(version, self._kept.items(), self._put)
            return self._stored

    def _send(self, broadcast: Broadcast, tensors: Iterator[tuple[str, Tensor]]) -> SendReport:
        group, number = broadcast.group, broadcast.number
        try:
            if self._member is None or self._member.group != group:
                self._leave("another group takes its place")
                self._member = GroupMember(group, 0, self._device)
            send(self._member, number, self._entries, tensors)
        except WeightTransferError as error:
            self._leave(str(error))
            return SendReport(failure=str(error), missing=self._missing(group, number))
        except BaseException as error:
            self._leave(repr(error))
            raise
        return SendReport()

    def _leave(self, reason: str) -> None:
        member, self._member = self._member, None
        if member is not None:
            member.leave(reason)

    def _missing(self, group: BroadcastGroup, number: int) -> tuple[int, ...]:
        assert self._store is not None
        store = PrefixStore(group.name, self._store)
        ranks = range(1, 1 + group.engine_ranks)
        return tuple(rank for rank in ranks if not store.check([f"{finished(number)}-{rank}"]))
