"""Weights over a process group: buckets, hashes, and members that fail. Members are threads of this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from actors.interfaces import BroadcastGroup, TensorEntry
from actors.weights.collective import cut, receive, send
from actors.weights.fingerprint import device_fingerprint, fingerprint
from actors.weights.group import GroupMember, _process_group, abandon, serve_store
from actors.weights.layout import entry_of
from maspo_dist.errors import WeightTransferError

ENGINES = 3
CPU = torch.device("cpu")


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(300, 7, generator=generator),
        "norm.weight": torch.randn(5, generator=generator).bfloat16(),
        "head.weight": torch.randn(40, 40, generator=generator),
        "scalar": torch.tensor(3.0 + seed),
    }


def entries(tensors: dict[str, Tensor]) -> list[TensorEntry]:
    return [entry_of(name, tensor) for name, tensor in tensors.items()]


class Meeting:
    """A store, and threads that act as members of groups there."""

    def __init__(self, deadline_s: float = 20.0) -> None:
        self.store = serve_store("127.0.0.1")
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(1 + ENGINES)

    def group(self, name: str = "publish-1") -> BroadcastGroup:
        return BroadcastGroup(
            address="127.0.0.1",
            port=self.store.port,
            name=name,
            engine_ranks=ENGINES,
            deadline_s=self._deadline_s,
        )

    def members(self, group: BroadcastGroup) -> list[GroupMember]:
        return list(self._threads.map(lambda rank: GroupMember(group, rank, CPU), range(1 + ENGINES)))

    def receive(self, member: GroupMember, number: int, expected: Sequence[TensorEntry]) -> Future[dict[str, Tensor]]:
        """As an engine does: after a failure it leaves the group."""

        def work() -> dict[str, Tensor]:
            try:
                return dict(receive(member, number, expected))
            except WeightTransferError as error:
                member.leave(str(error))
                raise

        return self._threads.submit(work)


@pytest.fixture
def meeting() -> Meeting:
    return Meeting()


def test_both_sides_cut_the_same_buckets_and_a_large_tensor_has_its_own() -> None:
    tensors = weights(0)
    buckets = list(cut(entries(tensors), bucket_bytes=1000))
    assert [[name for name, *_ in bucket.slices] for bucket in buckets] == [
        ["embed.weight"],
        ["norm.weight"],
        ["head.weight"],
        ["scalar"],
    ]
    [bucket] = cut(entries(tensors), bucket_bytes=1 << 20)
    assert [offset for *_, offset in bucket.slices] == [0, 8448, 8512, 14912]
    assert bucket.size_bytes == 14916


@pytest.mark.parametrize("size", [0, 1, 8, 65536, 65543, 9 << 20])
def test_a_device_computes_the_fingerprint_of_numpy(size: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    assert device_fingerprint(torch.from_numpy(data)) == fingerprint(data)


@pytest.mark.parametrize("start", [0, 1, 8])
def test_a_device_hashes_bytes_wherever_they_start_and_more_than_it_copies_at_once(
    start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.weights.fingerprint._DEVICE_BLOCKS", 2)
    data = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8)[start:]
    assert device_fingerprint(torch.from_numpy(data)) == fingerprint(data)


class HangingBackend:
    """As NCCL where a firewall drops packets: the first broadcast blocks its thread."""

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def broadcast(self, tensor: Tensor, root: int) -> object:
        self.is_over.wait()
        raise RuntimeError("connection timed out")

    def abort(self) -> None: ...


def test_members_that_cannot_connect_all_fail_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = HangingBackend()
    monkeypatch.setattr("actors.weights.group._process_group", lambda *_: backend)
    meeting = Meeting(deadline_s=1.0)
    started_s = time.monotonic()
    try:
        with pytest.raises(WeightTransferError, match=r"the first connection: the deadline of 1 s has passed"):
            meeting.members(meeting.group())
    finally:
        backend.is_over.set()
    assert time.monotonic() - started_s < 10


def test_a_group_of_gpus_is_made_without_the_watchdog_that_ends_processes(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nccl:
        class Options: ...

        def __init__(self, *_: object) -> None:
            raise RuntimeError(f"made with blocking wait {os.environ['TORCH_NCCL_BLOCKING_WAIT']}")

    monkeypatch.setattr("torch.distributed.distributed_c10d.ProcessGroupNCCL", Nccl, raising=False)
    store = PrefixStore("group", meeting.store)
    for before in (None, "0"):
        if before is not None:
            monkeypatch.setenv("TORCH_NCCL_BLOCKING_WAIT", before)
        with pytest.raises(RuntimeError, match="made with blocking wait 1"):
            _process_group(store, 0, 1, torch.device("cuda", 0), timedelta(seconds=1))
        assert os.environ.get("TORCH_NCCL_BLOCKING_WAIT") == before


def test_one_group_brings_several_versions_to_every_engine(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.weights.collective.BUCKET_BYTES", {"cpu": 1000})
    learner, *engines = meeting.members(meeting.group())
    for number in (1, 2, 3):
        tensors = weights(number)
        received = [meeting.receive(engine, number, entries(tensors)) for engine in engines]
        send(learner, number, entries(tensors), iter(tensors.items()))
        for got in received:
            assert got.result().keys() == tensors.keys()
            assert all(torch.equal(got.result()[name], tensor) for name, tensor in tensors.items())


def test_memory_of_a_bucket_is_used_again_only_when_no_tensor_views_it(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.weights.collective.BUCKET_BYTES", {"cpu": 2000})
    # Two tensors per bucket.
    tensors = {f"layer.{index}": torch.full((200,), float(index)) for index in range(24)}
    learner, *engines = meeting.members(meeting.group())
    sending = threading.Thread(target=send, args=(learner, 1, entries(tensors), iter(tensors.items())))
    sending.start()
    others = [meeting.receive(engine, 1, entries(tensors)) for engine in engines[:-1]]
    kept, freed = {}, []
    for index, (name, tensor) in enumerate(receive(engines[-1], 1, entries(tensors))):
        if index in (2, 3, 9):
            kept[name] = tensor
        elif index % 2:
            freed.append(tensor.data_ptr())
    sending.join()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in kept.items())
    assert all(other.result().keys() == tensors.keys() for other in others)
    assert len(set(freed)) < len(freed)


def test_nothing_is_sent_before_all_engines_have_begun(meeting: Meeting) -> None:
    tensors, taken = weights(0), threading.Event()

    def source() -> Iterator[tuple[str, Tensor]]:
        taken.set()
        yield from tensors.items()

    learner, *engines = meeting.members(meeting.group())
    for engine in engines[:-1]:
        meeting.receive(engine, 1, entries(tensors))
    sending = threading.Thread(target=send, args=(learner, 1, entries(tensors), source()))
    sending.start()
    assert not taken.wait(0.3)
    meeting.receive(engines[-1], 1, entries(tensors))
    sending.join()
    assert taken.is_set()


def test_an_engine_that_gets_other_bytes_than_were_sent_fails_the_broadcast(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = weights(0)
    learner, *engines = meeting.members(meeting.group())
    received = [meeting.receive(engine, 1, entries(tensors)) for engine in engines]
    monkeypatch.setattr("actors.weights.collective.combine", lambda parts: threading.get_ident())
    with pytest.raises(WeightTransferError, match="received other bytes than were sent"):
        send(learner, 1, entries(tensors), iter(tensors.items()))
    assert all(isinstance(got.exception(), WeightTransferError) for got in received)


def test_a_learner_that_has_other_tensors_than_it_announced_says_which(meeting: Meeting) -> None:
    tensors = weights(0)
    learner, *engines = meeting.members(meeting.group())
    received = [meeting.receive(engine, 1, entries(tensors)) for engine in engines]
    with pytest.raises(ValueError, match=r"has \('b', .* where it announced \('embed.weight'"):
        send(learner, 1, entries(tensors), iter([("b", torch.zeros(1))]))
    learner.leave("other tensors")
    assert all("other tensors" in str(got.exception()) for got in received)


def _abandon(meeting: Meeting, members: Sequence[GroupMember]) -> None:
    abandon(meeting.store, members[0].group, "abandoned")


def _leave(meeting: Meeting, members: Sequence[GroupMember]) -> None:
    members[-1].leave("abandoned")


@pytest.mark.parametrize("end", [_abandon, _leave])
def test_engines_that_wait_for_bytes_notice_at_once_that_the_group_is_abandoned(
    meeting: Meeting, end: Callable[[Meeting, Sequence[GroupMember]], None]
) -> None:
    members = meeting.members(meeting.group())
    received = [meeting.receive(engine, 1, entries(weights(0))) for engine in members[1:-1]]
    time.sleep(0.2)
    started_s = time.monotonic()
    end(meeting, members)
    assert all("abandoned" in str(got.exception()) for got in received)
    assert time.monotonic() - started_s < 2


def test_the_members_of_an_incomplete_group_give_up_at_their_deadline() -> None:
    meeting = Meeting(deadline_s=0.3)
    with pytest.raises(WeightTransferError, match=r"the other members: the deadline of 0.3 s has passed"):
        GroupMember(meeting.group(), 0, CPU)
    with pytest.raises(WeightTransferError, match=r"rank 0 of publish-1: the other members"):
        GroupMember(meeting.group(), 1, CPU)


def test_a_store_that_is_gone_is_named() -> None:
    meeting = Meeting(deadline_s=1.0)
    group = meeting.group()
    meeting.store = serve_store("127.0.0.1")
    with pytest.raises(WeightTransferError, match=f"learner rank 0 does not answer at 127.0.0.1:{group.port}"):
        GroupMember(group, 1, CPU)
