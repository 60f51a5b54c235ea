"""Broadcasts of weights from learner rank 0 to an engine's process on another GPU, and their end when it is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Self

import torch
from torch import Tensor
from torch.multiprocessing import get_context

from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace, show_only_gpu
from actors.interfaces import Broadcast, BroadcastGroup, SendReport
from actors.learner.weights import LearnerWeights
from actors.weights.collective import receive
from actors.weights.group import GroupMember
from actors.weights.layout import entry_of
from maspo_dist.planning.placement import Device
from maspo_dist.reward.pool.lifetime import end_with_parent

_ADDRESS = "127.0.0.1"
_TENSORS = 48
_TENSOR_ELEMENTS, _TINY_ELEMENTS = 1 << 25, 1 << 12
_BROADCASTS = 4
_DEADLINE_S = 60.0
_LEAST_GB_PER_S = 20.0


def measure(place: Workplace) -> Measured:
    """Speed of the fastest broadcast, seconds of the learner's copy, and how a broadcast to a killed process ends."""
    sender = _Sender(place)
    with _Receiver(place.setting.device) as receiver:
        started_s = time.perf_counter()
        wrong = sender.send(receiver, "first", 1)
        joined_s = time.perf_counter() - started_s
        seconds = []
        for number in range(2, 2 + _BROADCASTS):
            started_s = time.perf_counter()
            wrong += sender.send(receiver, "first", number)
            seconds.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        sender.keep()
        kept_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        failure = sender.send_and_kill(receiver, "first", 2 + _BROADCASTS)
        noticed_s = time.perf_counter() - started_s
    with _Receiver(place.setting.device) as receiver:
        wrong_after = sender.send(receiver, "second", 1)
    figures: dict[str, Figure] = {
        "gigabytes": sender.size_bytes / 1e9,
        "gb_per_s": sender.size_bytes / 1e9 / min(seconds),
        "first_s": joined_s,
        "keep_s": kept_s,
        "tensors_wrong": wrong,
        "failure": failure,
        "failure_noticed_s": noticed_s,
        "tensors_wrong_after_failure": wrong_after,
    }
    limits = [
        Limit(figure="tensors_wrong", most=0),
        Limit(figure="failure_noticed_s", most=2 * _DEADLINE_S),
        Limit(figure="tensors_wrong_after_failure", most=0),
    ]
    if place.setting.judges_speed:
        limits.append(Limit(figure="gb_per_s", least=_LEAST_GB_PER_S))
    return Measured(figures=figures, limits=tuple(limits))


class _Sender:
    """Learner rank 0: tensors whose values are a function of their index."""

    def __init__(self, place: Workplace) -> None:
        elements = _TINY_ELEMENTS if place.setting.is_tiny else _TENSOR_ELEMENTS
        self._named = [
            (f"weight.{index}", torch.full((elements,), index, dtype=torch.bfloat16, device=place.device))
            for index in range(_TENSORS)
        ]
        self.size_bytes = sum(tensor.nbytes for _, tensor in self._named)
        self._weights = LearnerWeights(0, place.device, _ADDRESS)
        self._announced = self._weights.announce(0, [entry_of(*item) for item in self._named])

    def send(self, receiver: _Receiver, group: str, number: int) -> int:
        """How many tensors arrived with other values. Raises RuntimeError when the broadcast fails."""
        report = self._send(receiver, group, number, iter(self._named))
        if report.failure is not None:
            raise RuntimeError(report.failure)
        return receiver.wrong()

    def send_and_kill(self, receiver: _Receiver, group: str, number: int) -> str:
        """Why a broadcast failed whose receiver was killed after half of the tensors."""

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for index, item in enumerate(self._named):
                if index == _TENSORS // 2:
                    receiver.kill()
                yield item

        failure = self._send(receiver, group, number, tensors()).failure
        if failure is None:
            raise RuntimeError("a broadcast to a process that was killed did not fail")
        return failure

    def keep(self) -> None:
        """Copies the tensors to the host, as after each broadcast of a run."""
        self._weights.keep(0, self._named)

    def _send(self, receiver: _Receiver, name: str, number: int, tensors: Iterator[tuple[str, Tensor]]) -> SendReport:
        port = self._announced.port
        group = BroadcastGroup(address=_ADDRESS, port=port, name=name, engine_ranks=1, deadline_s=_DEADLINE_S)
        broadcast = Broadcast(group=group, number=number, first_rank=1)
        receiver.begin(broadcast, self._announced.entries)
        return self._weights.send(broadcast, tensors)


class _Receiver:
    """A process on the second GPU that receives broadcasts."""

    def __init__(self, device: Device) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, device, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def begin(self, broadcast: Broadcast, entries: object) -> None:
        self._pipe.send((broadcast, entries))

    def wrong(self) -> int:
        """How many tensors of the broadcast had other values than were sent."""
        wrong: int = self._pipe.recv()
        return wrong

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, device: Device, parent: int) -> None:
    end_with_parent(parent)
    if device == "cuda":
        show_only_gpu(1)
    member: GroupMember | None = None
    while True:
        broadcast, entries = pipe.recv()
        if member is None:
            member = GroupMember(broadcast.group, broadcast.first_rank, torch.device(device))
        tensors = receive(member, broadcast.number, entries)
        pipe.send(sum(bool((tensor != index).any()) for index, (_, tensor) in enumerate(tensors)))
