"""Time of a publish by each transport, against one plain copy of the same bytes and gloo's own broadcast of them.

500 MB of weights go from the learner's tensors into the parameters of the engines: through the object store, then by a
broadcast, then through memory that the learner shares.

Writer, object store, process group and worker actors are real, each worker in its own process. The engine copies from
shared memory, or from the buckets of a broadcast, into its parameters, as vLLM's layer-wise reload does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from actors.bench.lines import BenchLine, compare
from actors.interfaces import (
    AnnouncedWeights,
    Broadcast,
    BroadcastGroup,
    PublishReport,
    RolloutEngine,
    StagedWeights,
    WeightSnapshot,
    WeightUpdate,
)
from actors.learner.weights import LearnerWeights
from actors.ray.actor_options import actor_class
from actors.rollout.actor import RolloutActor
from actors.weights.collective import receive
from actors.weights.group import GroupMember
from actors.weights.ipc import OpenedMemory, SharedTensors
from actors.weights.layout import entry_of
from actors.weights.object_store import write_buckets
from actors.weights.shared_devices import SharedDevices
from actors.weights.shared_memory import mapped_file, read_tensors
from maspo_dist.config import TrainConfig
from maspo_dist.types import FloatArray, IntArray, Rollout, Sampling

_TENSORS, _TENSOR_ELEMENTS = 125, 1_000_000
_MOST_WORKERS = 4
_REPEATS = 10
_STORE_BYTES = 2 * 10**9
_START_S, _PUBLISH_S = 60.0, 60.0
_CPU, _ADDRESS = torch.device("cpu"), "127.0.0.1"


def run() -> Iterator[BenchLine]:
    """The lines of the bench. Takes about four minutes and 9 GB of memory."""
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        with TemporaryDirectory() as logs:
            weights = [torch.randn(_TENSOR_ELEMENTS) for _ in range(_TENSORS)]
            workers: list[ActorHandle[Any]] = []
            while len(workers) < _MOST_WORKERS:
                workers.append(_start_worker(len(workers), Path(logs)))
                yield from _publish(weights, workers)
                yield from _broadcast(weights, workers)
                yield from _share(weights, workers)
    finally:
        ray.shutdown()


class CopyingEngine:
    """Overwrites its parameters in place at each load. Generates nothing."""

    def __init__(self) -> None:
        self._memory = torch.empty(_TENSORS * _TENSOR_ELEMENTS)
        self._parameters = list(self._memory.view(_TENSORS, _TENSOR_ELEMENTS))
        #: By the name of the group: two groups take turns.
        self._members: dict[str, GroupMember] = {}

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        raise AssertionError("nothing is generated in a bench of publishing")

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        return np.zeros(token_ids.size - 1, np.float32)

    async def pause(self) -> None:
        pass

    async def load(self, weights: StagedWeights) -> None:
        await asyncio.to_thread(self._load, weights)

    async def resume(self) -> None:
        pass

    async def ping(self) -> int:
        return 0

    async def load_by_detour(self, weights: StagedWeights) -> Sequence[str]:
        await self.load(weights)
        return ()

    async def stale_parameters(self, weights: StagedWeights) -> Sequence[str]:
        return ()

    def close(self) -> None:
        pass

    def receive_plainly(self, broadcast: Broadcast) -> None:
        """By one call of gloo, without a hash or a copy."""
        member = self._joined(broadcast)
        member.extend(_PUBLISH_S)
        member.wait(member.broadcast(self._memory), "the bytes")

    def _joined(self, broadcast: Broadcast) -> GroupMember:
        member = self._members.get(broadcast.group.name)
        if member is None or member.group != broadcast.group:
            member = self._members[broadcast.group.name] = GroupMember(broadcast.group, broadcast.first_rank, _CPU)
        return member

    def _load(self, weights: StagedWeights) -> None:
        if isinstance(source := weights.source, Broadcast):
            tensors = receive(self._joined(source), source.number, [entry[:3] for entry in weights.entries])
        elif isinstance(source, SharedDevices):
            tensors = OpenedMemory(source, _CPU).read(weights.entries)
        else:
            tensors = read_tensors(mapped_file(weights), weights.entries)
        for parameter, (_, tensor) in zip(self._parameters, tensors, strict=True):
            parameter.copy_(tensor)


class CopyingActor(RolloutActor):
    """A rollout worker that answers no requests."""

    async def receive_plainly(self, broadcast: Broadcast) -> None:
        assert isinstance(self._engine, CopyingEngine)
        await asyncio.to_thread(self._engine.receive_plainly, broadcast)

    async def _make_engine(self) -> RolloutEngine:
        return CopyingEngine()


def _start_worker(index: int, logs: Path) -> ActorHandle[Any]:
    config = TrainConfig.model_validate(
        {
            "run": {"name": "bench", "max_steps": 1},
            "model": {"path": "none", "dtype": "float32", "device": "cpu"},
            "data": {"train": ["none"]},
            "rollout": {"prompts_per_step": 8, "max_response_tokens": 1},
        }
    )
    worker: ActorHandle[Any] = (
        actor_class(CopyingActor).options(num_cpus=0).remote(config, index, "cpu", scorer=None, logs_path=logs)
    )
    ray.get(worker.start.remote(), timeout=_START_S)
    return worker


def _publish(weights: Sequence[torch.Tensor], workers: Sequence[ActorHandle[Any]]) -> Iterator[BenchLine]:
    """The best of `_REPEATS` plain copies and publishes, in turn. The first only warms the object store's memory."""
    count = len(workers)
    flat = torch.cat(list(weights)).numpy()
    size = flat.nbytes
    plain, published, pauses = [], [], []
    for version in range(_REPEATS):
        started_s = time.perf_counter()
        flat.copy()
        plain.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        tensors = ((f"layer.{index}", weight) for index, weight in enumerate(weights))
        parts = _hand_over(write_buckets(version, tensors, ray.put), workers)
        published.append(time.perf_counter() - started_s)
        pauses.append(max(part.pause_s for part in parts))
    plain_s, published_s, pause_s = min(plain[1:]), min(published[1:]), min(pauses[1:])
    case = f"{size / 1e6:.0f} MB to {count} workers on one node, against a plain copy of as many bytes"
    yield compare("weight-sync", case, count * size / published_s, "bytes/s", size / plain_s)
    case = f"pause of the engines ({pause_s:.2f} s of {published_s:.2f} s), {count} workers, against a plain copy each"
    yield compare("weight-sync", case, count * plain_s, "s", pause_s)


def _broadcast(weights: Sequence[torch.Tensor], workers: Sequence[ActorHandle[Any]]) -> Iterator[BenchLine]:
    """The best of `_REPEATS` plain copies, broadcasts by gloo alone, and publishes, in turn. The first makes groups."""
    count = len(workers)
    flat = torch.cat(list(weights))
    named = [(f"layer.{index}", weight) for index, weight in enumerate(weights)]
    learner = LearnerWeights(0, _CPU, _ADDRESS)
    announced = learner.announce(_REPEATS, [entry_of(*item) for item in named])
    own, plainly = (
        BroadcastGroup(address=_ADDRESS, port=announced.port, name=name, engine_ranks=count, deadline_s=_PUBLISH_S)
        for name in ("own", "plainly")
    )
    member: GroupMember | None = None
    copied, plain, published, pauses = [], [], [], []
    for number in range(1, 1 + _REPEATS):
        started_s = time.perf_counter()
        flat.clone()
        copied.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        calls = [
            worker.receive_plainly.remote(Broadcast(group=plainly, number=number, first_rank=rank))
            for rank, worker in enumerate(workers, 1)
        ]
        member = member or GroupMember(plainly, 0, _CPU)
        member.extend(_PUBLISH_S)
        member.wait(member.broadcast(flat), "the bytes")
        ray.get(calls, timeout=_PUBLISH_S)
        plain.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        parts = _send(learner, announced, Broadcast(group=own, number=number, first_rank=0), named, workers)
        published.append(time.perf_counter() - started_s)
        pauses.append(max(part.pause_s for part in parts))
    copy_s, plain_s, published_s, pause_s = (min(seconds[1:]) for seconds in (copied, plain, published, pauses))
    sent = count * flat.nbytes
    case = f"{flat.nbytes / 1e6:.0f} MB broadcast to {count} workers on one node, against gloo alone"
    yield compare("weight-sync", case, sent / published_s, "bytes/s", sent / plain_s)
    took = f"{pause_s:.2f} s of {published_s:.2f} s"
    case = f"pause of the engines in a broadcast ({took}), {count} workers, against a plain copy each"
    yield compare("weight-sync", case, count * copy_s, "s", pause_s)


def _share(weights: Sequence[torch.Tensor], workers: Sequence[ActorHandle[Any]]) -> Iterator[BenchLine]:
    """The best of `_REPEATS` plain copies and publishes by IPC, in turn. On CPUs the learner shares a copy."""
    count = len(workers)
    flat = torch.cat(list(weights))
    named = [(f"layer.{index}", weight) for index, weight in enumerate(weights)]
    learner = SharedTensors(_CPU)
    copied, published, pauses = [], [], []
    for version in range(_REPEATS):
        started_s = time.perf_counter()
        flat.clone()
        copied.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        staged = learner.share(version, [entry_of(*item) for item in named], named)
        update = _update(AnnouncedWeights(version=version, entries=(), address="", port=0))
        calls = [worker.publish.remote(update, staged) for worker in workers]
        parts: list[PublishReport] = ray.get(calls, timeout=_PUBLISH_S)
        learner.clear()
        published.append(time.perf_counter() - started_s)
        pauses.append(max(part.pause_s for part in parts))
    copy_s, published_s, pause_s = (min(seconds[1:]) for seconds in (copied, published, pauses))
    case = f"{flat.nbytes / 1e6:.0f} MB shared with {count} workers on one node, against a plain copy of as many bytes"
    yield compare("weight-sync", case, count * flat.nbytes / published_s, "bytes/s", flat.nbytes / copy_s)
    took = f"{pause_s:.2f} s of {published_s:.2f} s"
    case = f"pause of the engines that read shared memory ({took}), {count} workers, against a plain copy each"
    yield compare("weight-sync", case, count * copy_s, "s", pause_s)


def _send(
    learner: LearnerWeights,
    announced: AnnouncedWeights,
    broadcast: Broadcast,
    named: Sequence[tuple[str, torch.Tensor]],
    workers: Sequence[ActorHandle[Any]],
) -> list[PublishReport]:
    update = _update(announced)
    entries = tuple((*entry, 0) for entry in announced.entries)
    calls = []
    for rank, worker in enumerate(workers, 1):
        source = replace(broadcast, first_rank=rank)
        staged = StagedWeights(version=announced.version, entries=entries, source=source)
        calls.append(worker.publish.remote(update, staged))
    if (failure := learner.send(broadcast, named).failure) is not None:
        raise RuntimeError(failure)
    reports: list[PublishReport] = ray.get(calls, timeout=_PUBLISH_S)
    return reports


def _hand_over(snapshot: WeightSnapshot, workers: Sequence[ActorHandle[Any]]) -> list[PublishReport]:
    calls = [worker.publish.remote(_update(snapshot)) for worker in workers]
    reports: list[PublishReport] = ray.get(calls, timeout=_PUBLISH_S)
    return reports


def _update(snapshot: WeightSnapshot | AnnouncedWeights) -> WeightUpdate:
    probes, expected = (np.arange(4, dtype=np.int32),), (np.zeros(3, np.float32),)
    return WeightUpdate(snapshot=snapshot, probes=probes, expected=expected, max_mean_gap=1e-3)
