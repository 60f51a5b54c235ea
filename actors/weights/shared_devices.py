"""What learner ranks say of the memory that they share with engines on their devices, see `actors.weights.ipc`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.interfaces import StagedWeights
from maspo_dist.errors import WeightSyncError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """`size_bytes` bytes; `handle` is what another process opens."""

    handle: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """All tensors in the memory of one device. Offsets of slices count through `parts` as if these were one.

    device   its UUID, or "cpu"
    """

    device: str
    parts: tuple[MemoryPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDevices:
    """A source of StagedWeights: the same tensors on the device of each learner rank.

    fingerprint  of all tensors in order, see `actors.weights.fingerprint`
    """

    devices: tuple[DeviceMemory, ...]
    fingerprint: int


def of_all_ranks(shared: Sequence[StagedWeights]) -> StagedWeights:
    """What each rank shares, as one source. Raises WeightSyncError when a rank holds other weights than rank 0."""
    sources = [_source_of(weights) for weights in shared]
    for rank, (weights, source) in enumerate(zip(shared, sources, strict=True)):
        if (weights.entries, source.fingerprint) != (shared[0].entries, sources[0].fingerprint):
            raise WeightSyncError(f"learner rank {rank} holds other weights than learner rank 0")
    devices = tuple(memory for source in sources for memory in source.devices)
    source = SharedDevices(devices=devices, fingerprint=sources[0].fingerprint)
    return StagedWeights(version=shared[0].version, entries=shared[0].entries, source=source)


def _source_of(weights: StagedWeights) -> SharedDevices:
    assert isinstance(weights.source, SharedDevices)
    return weights.source
