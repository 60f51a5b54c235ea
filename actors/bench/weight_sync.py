"""What a publish costs: 500 MB of weights from the learner's tensors through the object store into engines' parameters.

The real writer, object store and workers; the engine maps what it is given and copies it into its parameters,
as vLLM's layer-wise reload does. Held against one plain copy of the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np
import ray
import torch

from actors.boundaries import ProbeSequence, WeightSnapshot, WorkerPublish
from actors.rollout_worker import RolloutWorker
from actors.staged_weights import Entries, read_tensors
from actors.weight_buckets import BucketWriter
from maspo_dist.bench import BenchLine, compare
from maspo_dist.types import FloatArray, IntArray, Rollout, Sampling, Verdict

_TENSORS, _TENSOR_ELEMENTS = 125, 1_000_000
_MOST_WORKERS = 4
_REPEATS = 10
_STORE_BYTES = 2 * 10**9


def run() -> Iterator[BenchLine]:
    """The lines of the bench; about a minute, 5 GB of memory."""
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        weights = [torch.randn(_TENSOR_ELEMENTS) for _ in range(_TENSORS)]
        for workers in range(1, _MOST_WORKERS + 1):
            yield from _publish(weights, workers)
    finally:
        ray.shutdown()


class CopyingEngine:
    """Keeps parameters, overwritten in place at every load. Generates nothing."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._parameters = [torch.empty_like(weight) for weight in weights]

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        raise AssertionError("nothing is generated in a bench of publishing")

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        return np.zeros(token_ids.size - 1, np.float32)

    async def load_weights(self, path: str, size_bytes: int, entries: Entries, version: int) -> float:
        started_s = time.perf_counter()
        await asyncio.to_thread(self._load, path, size_bytes, entries)
        return time.perf_counter() - started_s

    async def resume(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def lm_head_gap(self, path: str, size_bytes: int, entries: Entries) -> float:
        return 0.0

    def close(self) -> None:
        pass

    def _load(self, path: str, size_bytes: int, entries: Entries) -> None:
        for parameter, (_, tensor) in zip(self._parameters, read_tensors(path, size_bytes, entries), strict=True):
            parameter.copy_(tensor)


class SilentScorer:
    """Scores nothing."""

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        raise AssertionError("nothing is scored in a bench of publishing")


def _publish(weights: Sequence[torch.Tensor], count: int) -> Iterator[BenchLine]:
    """Best of several, plain copies and publishes in turn; the first few warm the object store's memory."""
    workers = [RolloutWorker(f"worker {index}", CopyingEngine(weights), SilentScorer(), 1e-3) for index in range(count)]
    writer = BucketWriter(ray.put)
    flat = torch.cat(list(weights)).numpy()
    size = flat.nbytes
    plain, published, pauses = [], [], []
    for version in range(_REPEATS):
        started_s = time.perf_counter()
        flat.copy()
        plain.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        for index, weight in enumerate(weights):
            writer.add(f"layer.{index}", weight)
        parts = asyncio.run(_hand_over(writer.finish(version), workers))
        published.append(time.perf_counter() - started_s)
        pauses.append(max(part.pause_s for part in parts))
    for worker in workers:
        worker.stop()
    plain_s, published_s, pause_s = min(plain[1:]), min(published[1:]), min(pauses[1:])
    case = f"{size / 1e6:.0f} MB to {count} workers on one node, against a plain copy of as many bytes"
    yield compare("weight-sync", case, count * size / published_s, "bytes/s", size / plain_s)
    case = f"pause of the engines ({pause_s:.2f} s of {published_s:.2f} s), {count} workers, against a plain copy each"
    yield compare("weight-sync", case, count * plain_s, "s", pause_s)


async def _hand_over(snapshot: WeightSnapshot, workers: Sequence[RolloutWorker]) -> list[WorkerPublish]:
    buckets = [await bucket for bucket in snapshot.buckets]
    probes = [ProbeSequence(token_ids=np.arange(4, dtype=np.int32))]
    expected = [np.zeros(3, np.float32)]
    return await asyncio.gather(*(worker.publish(snapshot, buckets, probes, expected) for worker in workers))
