"""Weights in buckets, their fingerprint, and the group of ranks behind one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from doubles.tiny_learner import make_groups, score

from actors.learner.group import RayLearnerGroup
from actors.weights.fingerprint import combine, fingerprint
from actors.weights.object_store import write_buckets
from actors.weights.shared_memory import SharedMemory, mapped_file, read_tensors
from maspo_dist.config import ClusterConfig
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.errors import LearnerLostError, WeightSyncError


def _copies(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [part.copy() for part in parts]


def test_tensors_come_back_from_their_buckets() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a.weight": torch.randn(7, 3, generator=generator),
        "b.bias": torch.randn(5, generator=generator).bfloat16(),
        "c.weight": torch.randn(40, 40, generator=generator),
        "scalar": torch.tensor(3.0),
    }
    for version in range(2):
        snapshot = write_buckets(version, tensors.items(), _copies, bucket_bytes=256)
        assert snapshot.version == version
        assert [len(bucket) for bucket in snapshot.payload] == [2, 1, 1]
        parts = [part for bucket in snapshot.payload for part in bucket]
        assert snapshot.fingerprint == combine([fingerprint(part) for part in parts])
        for entry, part, (name, tensor) in zip(snapshot.entries, parts, tensors.items(), strict=True):
            assert entry == (name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            assert torch.equal(torch.from_numpy(part).view(tensor.dtype).view(tensor.shape), tensor)


def test_staged_weights_are_read_as_they_were_added() -> None:
    generator = torch.Generator().manual_seed(0)
    memory = SharedMemory()
    for rows in (5, 700):
        tensors = {
            "a": torch.randn(rows, 3, generator=generator),
            "b": torch.randn(rows, 33, generator=generator).bfloat16(),
        }
        snapshot = write_buckets(1, tensors.items(), _copies)
        weights = memory.stage(snapshot, snapshot.payload)
        read = dict(read_tensors(mapped_file(weights), weights.entries))
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    memory.close()


def _bytes(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 65536, 65543, 200_001])
def test_the_fingerprint_changes_with_every_byte_and_the_length(size: int) -> None:
    data = _bytes(size)
    value = fingerprint(data)
    assert fingerprint(data.copy()) == value
    assert fingerprint(np.append(data, np.uint8(0))) != value
    for position in {0, size // 2, size - 1} if size else set():
        changed = data.copy()
        changed[position] ^= 1
        assert fingerprint(changed) != value


def test_the_fingerprint_changes_with_the_order() -> None:
    data = _bytes(200_000)
    words = data.view("<u8").copy()
    words[[3, 20_000]] = words[[20_000, 3]]
    assert fingerprint(words.view(np.uint8)) != fingerprint(data)
    blocks = np.concatenate((data[65536:131072], data[:65536], data[131072:]))
    assert fingerprint(blocks) != fingerprint(data)
    assert combine([1, 2]) != combine([2, 1])
    assert combine([1]) != combine([1, 0])


class FakeMethod:
    def __init__(self, behaviour: Callable[..., Any]) -> None:
        self._behaviour = behaviour

    async def remote(self, *arguments: Any) -> Any:
        return await self._behaviour(*arguments)


class FakeLearner:
    """Answers after `seconds`, or raises."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self._seconds = seconds
        self._error = error
        self.calls: list[tuple[Any, ...]] = []
        self.received: list[tuple[Any, ...]] = []
        self.receive = FakeMethod(self._received)
        self.update = self.probe = FakeMethod(self._answer)
        self.load = FakeMethod(self._loaded)

    async def _answer(self, *arguments: Any) -> dict[str, float]:
        self.calls.append(arguments)
        await asyncio.sleep(self._seconds)
        if self._error is not None:
            raise self._error
        return {"learner/loss": 1.0}

    async def _received(self, *groups: Any) -> None:
        self.received.append(groups)

    async def _loaded(self, *_: Any) -> int:
        return 7


async def _group(*learners: FakeLearner, update_timeout_s: float = 5.0) -> RayLearnerGroup:
    async def make() -> list[Any]:
        return list(learners)

    group = RayLearnerGroup(make, ClusterConfig(update_timeout_s=update_timeout_s))
    await group.start()
    return group


async def test_every_rank_gets_its_shard_and_only_the_groups_it_needs() -> None:
    learners = [FakeLearner(), FakeLearner()]
    batch = lay_out_batch(3, score(make_groups(4)), mini_batches=2, ranks=2, micro_batch_tokens=128)
    bodies = {group_id: f"body {group_id}" for group_id in range(9)}
    report = await (await _group(*learners)).update(batch, bodies)
    assert (report.step, report.policy_version, report.metrics) == (3, 1, {"learner/loss": 1.0})
    for rank, learner in enumerate(learners):
        shard, loss_tokens, loss_sequences = learner.calls[0]
        [groups] = learner.received
        assert shard == batch.shards[rank]
        assert (loss_tokens, loss_sequences) == (batch.loss_tokens, batch.loss_sequences)
        needed = {ref.group_id for mini in shard for micro in mini for ref in micro}
        assert sorted(groups) == sorted(bodies[group_id] for group_id in needed)


async def test_the_policy_version_goes_on_from_a_checkpoint(tmp_path: Any) -> None:
    group = await _group(FakeLearner())
    await group.load(tmp_path)
    batch = lay_out_batch(0, score(make_groups(2)), mini_batches=1, ranks=1, micro_batch_tokens=128)
    assert (await group.update(batch, {0: None, 1: None})).policy_version == 8


async def test_a_silent_rank_is_named_with_its_call() -> None:
    batch = lay_out_batch(12, score(make_groups(4)), mini_batches=1, ranks=3, micro_batch_tokens=128)
    group = await _group(FakeLearner(30.0), FakeLearner(), FakeLearner(30.0), update_timeout_s=0.1)
    with pytest.raises(LearnerLostError, match=r"learner rank 0, 2: update \(step 12\): no answer within 0.1 s"):
        await group.update(batch, dict.fromkeys(range(4)))


async def test_one_rank_failing_ends_the_call_without_waiting_for_the_rest() -> None:
    batch = lay_out_batch(0, score(make_groups(4)), mini_batches=1, ranks=2, micro_batch_tokens=128)
    started_s = time.monotonic()
    with pytest.raises(WeightSyncError, match="told"):
        group = await _group(FakeLearner(30.0), FakeLearner(error=WeightSyncError("told")))
        await group.update(batch, dict.fromkeys(range(4)))
    assert time.monotonic() - started_s < 5
