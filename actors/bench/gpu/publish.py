"""Publishes from learner to engine through Ray's object store, while requests are in flight.

    real weights → digests → other weights → digests: all differ → real weights → digests: the first ones again

The digests are of the engine's own parameters, so no map from names to fused parameters is needed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from torch import Tensor

from actors.bench.gpu.logprobs import MEAN_GAP
from actors.bench.gpu.pair import Pair, gaps
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace
from actors.interfaces import StagedWeights
from actors.ray.connection import connect, disconnect
from actors.weights.object_store import ObjectStoreTransport, write_buckets
from maspo_dist.types import Rollout, Sampling

_IN_FLIGHT = 8
_PROBES = 16
#: Room in the object store: both snapshots of a publish and its successor's.
_STORED_SNAPSHOTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    weights: StagedWeights
    stage_s: float
    pause_s: float


def measure(place: Workplace) -> Measured:
    """With the engine and learner of this process."""
    return measure_pair(place.pair())


def measure_pair(pair: Pair) -> Measured:
    """Bytes per second up to the pause, seconds of the pause, digests, and the proof after the last publish."""
    size_bytes = sum(tensor.nbytes for _, tensor in pair.learner.named_weights())
    with object_store(size_bytes) as transport:
        return pair.run(_measure(pair, transport, size_bytes))


@contextmanager
def object_store(size_bytes: int) -> Iterator[ObjectStoreTransport]:
    """Ray's, with room for publishes of `size_bytes` each."""
    connect("cpu", max(10**8, _STORED_SNAPSHOTS * size_bytes))
    transport = ObjectStoreTransport()
    try:
        yield transport
    finally:
        transport.close()
        disconnect()


async def _measure(pair: Pair, transport: ObjectStoreTransport, size_bytes: int) -> Measured:
    await publish(pair, transport, 1, pair.learner.named_weights())
    first = await pair.engine.digests()
    before = await pair.engine.ping()
    requests = asyncio.gather(*_requests(pair))
    # A ping is answered between two steps of the engine.
    while await pair.engine.ping() < before + _IN_FLIGHT:
        pass
    other_publish = await publish(pair, transport, 2, _changed(pair))
    other = await pair.engine.digests()
    last_publish = await publish(pair, transport, 3, pair.learner.named_weights())
    last = await pair.engine.digests()
    responses = await requests
    probes = pair.prompts(_PROBES)
    gap = gaps(await asyncio.gather(*map(pair.engine.prompt_logprobs, probes)), pair.learner.logprobs(probes))
    pause_s = max(last_publish.pause_s, other_publish.pause_s)
    figures: dict[str, Figure] = {
        "gigabytes": size_bytes / 1e9,
        "stage_gb_per_s": size_bytes / 1e9 / last_publish.stage_s,
        "load_gb_per_s": size_bytes / 1e9 / pause_s,
        "pause_s": pause_s,
        "parameters_seen": len(first),
        "parameters_unchanged": sum(other.get(name) == digest for name, digest in first.items()),
        "parameters_not_restored": sum(last.get(name) != digest for name, digest in first.items()),
        "responses_over_versions": sum(len(response.token_versions) > 1 for response in responses),
        "parameters_stale": len(await pair.engine.stale_parameters(last_publish.weights)),
        **{f"gap_{name}": value for name, value in gap.items()},
    }
    dtype = pair.config.model.dtype
    limits = (
        Limit(figure="parameters_seen", least=1),
        Limit(figure="parameters_unchanged", most=0),
        Limit(figure="parameters_not_restored", most=0),
        Limit(figure="responses_over_versions", least=1),
        Limit(figure="parameters_stale", most=0),
        Limit(figure="gap_mean", most=MEAN_GAP[dtype]),
    )
    return Measured(figures=figures, limits=limits)


def _requests(pair: Pair) -> Iterator[asyncio.Future[Rollout]]:
    """Long responses, of which some are open during all publishes."""
    sampling = Sampling(temperature=1.0, max_response_tokens=pair.place.setting.scale.response_tokens)
    for seed, prompt in enumerate(pair.prompts(_IN_FLIGHT)):
        yield asyncio.ensure_future(pair.engine.generate(prompt, sampling, seed, None))


async def publish(
    pair: Pair, transport: ObjectStoreTransport, version: int, tensors: Iterable[tuple[str, Tensor]]
) -> Published:
    """As learner and rollout worker do it."""
    started_s = time.perf_counter()
    snapshot = await asyncio.to_thread(write_buckets, version, tensors, ray.put)
    weights = await transport.receive(snapshot)
    staged_s = time.perf_counter()
    await pair.engine.pause()
    await pair.engine.load(weights)
    loaded_s = time.perf_counter()
    await pair.engine.resume()
    return Published(weights=weights, stage_s=staged_s - started_s, pause_s=loaded_s - staged_s)


def _changed(pair: Pair) -> Iterator[tuple[str, Tensor]]:
    """Changed weights: scaled and shifted, so that a bias of zeros changes too."""
    for name, tensor in pair.learner.named_weights():
        yield name, tensor * 1.02 + 0.01
