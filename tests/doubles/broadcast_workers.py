"""Workers whose engines are processes that receive real broadcasts over gloo, and the learner that sends to them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from actors.bench.doubles import Bucket, FakeWorker, make_publish_report
from actors.interfaces import (
    AnnouncedWeights,
    Body,
    Broadcast,
    BroadcastGroup,
    PublishReport,
    SendReport,
    StagedWeights,
    WeightSnapshot,
    WeightUpdate,
)
from actors.learner.weights import LearnerWeights
from actors.weights.collective import receive
from actors.weights.fingerprint import combine, fingerprint, tensor_fingerprint
from actors.weights.group import GroupMember, abandon
from actors.weights.layout import entry_of
from maspo_dist.errors import ActorDiedError, WeightTransferError
from maspo_dist.reward.pool.lifetime import end_with_parent
from maspo_dist.types import RolloutGroup

#: More bytes in all than the sockets between two processes hold: a member that stops reading stops its senders.
_ELEMENTS, _TENSORS = 500_000, 12
#: Each tensor has a bucket of its own.
BUCKET_BYTES = 1 << 20
#: An engine that waits looks for a failure every 50 ms.
_SEEN_WITHIN_S = 1.0


def make_weights(version: int) -> dict[str, Tensor]:
    """Tensors of 24 MB in all, different for each version."""
    return {f"layer.{index}": torch.full((_ELEMENTS,), float(version + index)) for index in range(_TENSORS)}


def digest(version: int) -> int:
    return combine([tensor_fingerprint(tensor.view(torch.uint8)) for tensor in make_weights(version).values()])


def _engine(pipe: Connection, parent: int) -> None:
    """An engine's process: receives broadcasts and answers with the digest of what it holds, or with what failed."""
    end_with_parent(parent)
    torch.set_num_threads(1)
    member: GroupMember | None = None
    while True:
        rank, broadcast, entries = pipe.recv()
        try:
            if member is None or member.group != broadcast.group:
                member = GroupMember(broadcast.group, rank, torch.device("cpu"))
            parts = receive(member, broadcast.number, entries)
            pipe.send(combine([tensor_fingerprint(tensor.view(torch.uint8)) for _, tensor in parts]))
        except WeightTransferError as error:
            if member is not None:
                member.leave(str(error))
            member = None
            pipe.send(error)


class EngineProcess:
    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_engine, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def strike(self, which: signal.Signals) -> None:
        assert self._process.pid is not None
        if self._process.is_alive():
            os.kill(self._process.pid, which)

    def end(self) -> None:
        self._process.kill()
        self._process.join()


class BroadcastWorker(FakeWorker):
    """`held` is the digest of the weights that the engine holds."""

    def __init__(self, index: int, engine: EngineProcess) -> None:
        super().__init__(index)
        self.engine = engine
        self.held = 0
        self.broadcasts = 0

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        if staged is not None and isinstance(staged.source, Broadcast):
            self.held = await self._receive(staged.source, [entry[:3] for entry in staged.entries])
            self.broadcasts += 1
        else:
            assert isinstance(update.snapshot, WeightSnapshot)
            parts = [part for body in update.snapshot.payload for part in await body]
            self.held = combine([fingerprint(part) for part in parts])
            assert self.held == update.snapshot.fingerprint
        self.version = update.version
        return make_publish_report(update)

    async def _receive(self, broadcast: Broadcast, entries: list[tuple[str, str, tuple[int, ...]]]) -> int:
        try:
            self.engine.pipe.send((broadcast.first_rank, broadcast, entries))
            answer: int | WeightTransferError = await asyncio.to_thread(self.engine.pipe.recv)
        except (EOFError, OSError) as error:
            raise ActorDiedError(f"{self.name}: the engine's process is dead") from error
        if isinstance(answer, WeightTransferError):
            raise answer
        return answer

    async def ping(self) -> int:
        """Notices a dead engine and no frozen one: that is left to the broadcast."""
        if not self.engine.is_alive():
            raise ActorDiedError(f"{self.name}: the engine's process is dead")
        return 0

    def kill(self) -> None:
        self.engine.strike(signal.SIGKILL)


class BroadcastFactory:
    """Starts workers whose processes have been forked before any thread of gloo runs here."""

    def __init__(self, processes: int) -> None:
        self.engines = [EngineProcess() for _ in range(processes)]
        self.started: list[BroadcastWorker] = []

    async def start_worker(self, index: int, place_timeout_s: float) -> BroadcastWorker:
        worker = BroadcastWorker(index, self.engines[len(self.started)])
        self.started.append(worker)
        return worker

    async def room(self) -> int:
        return 0

    async def fetch(self, body: Body) -> RolloutGroup:
        raise AssertionError("nothing is generated")

    def store(self, group: RolloutGroup) -> Body:
        raise AssertionError("nothing is generated")

    def close(self) -> None:
        for engine in self.engines:
            engine.end()


@dataclass(eq=False)
class BroadcastLearner:
    """Rank 0 in this process: implements `actors.rollout.broadcasts.WeightSender`.

    weights  of each version
    before   is called with the index of each tensor before it is sent
    groups   of each broadcast; `stored_versions` were stored, in order
    """

    weights: Callable[[int], Mapping[str, Tensor]] = make_weights
    before: Callable[[int], None] = lambda index: None
    groups: list[str] = field(default_factory=list)
    stored_versions: list[int] = field(default_factory=list)
    version: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Another process takes the place of rank 0."""
        self._weights = LearnerWeights(
            0, torch.device("cpu"), "127.0.0.1", put=lambda parts: Bucket([part.copy() for part in parts])
        )
        self._group: BroadcastGroup | None = None

    def announce(self, version: int) -> AnnouncedWeights:
        self.version = version
        return self._weights.announce(version, [entry_of(*item) for item in self.weights(version).items()])

    def give_up(self) -> None:
        """Ends the broadcast that is on, and sends nothing until the engines, which wait for bytes, have seen it."""
        assert self._weights._store is not None
        assert self._group is not None
        abandon(self._weights._store, self._group, "no route to host")
        time.sleep(_SEEN_WITHIN_S)

    async def send(self, version: int, broadcast: Broadcast) -> SendReport:
        self._group = broadcast.group
        self.groups.append(broadcast.group.name)
        return await asyncio.to_thread(self._weights.send, broadcast, self._tensors())

    async def abandon(self, group: BroadcastGroup) -> None:
        await asyncio.to_thread(self._weights.abandon, group)

    async def keep(self, version: int) -> None:
        await asyncio.to_thread(self._weights.keep, version, self.weights(version).items())

    async def store(self, version: int) -> None:
        await asyncio.to_thread(self._weights.store, version, self.weights(version).items())

    async def stored(self, version: int) -> WeightSnapshot | None:
        self.stored_versions.append(version)
        return await asyncio.to_thread(self._weights.stored, version)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for index, (name, tensor) in enumerate(self.weights(self.version).items()):
            self.before(index)
            yield name, tensor
