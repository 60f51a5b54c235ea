"""Publish and proof of an engine that is split over two GPUs."""

from __future__ import annotations

from actors.bench.gpu.pair import Pair
from actors.bench.gpu.publish import measure_pair
from actors.bench.gpu.result import Measured
from actors.bench.gpu.workplace import Workplace


def measure(place: Workplace) -> Measured:
    """The figures and limits of `publish`."""
    pair = Pair(place, place.config(place.model), tensor_parallel=2)
    try:
        return measure_pair(pair)
    finally:
        pair.close()
