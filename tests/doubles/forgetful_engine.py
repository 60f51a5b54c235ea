"""A real vLLM engine of which some parameters keep old values at a load, as if the load had not reached them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from actors.engines.vllm.engine import VllmEngine
from actors.interfaces import StagedWeights
from actors.weights.shared_memory import mapped_file


class ForgetfulEngine(VllmEngine):
    """`kept` are the values that tensors have at the next loads, by name; all others get the published values."""

    kept: Mapping[str, torch.Tensor] = {}

    async def load(self, weights: StagedWeights) -> None:
        with _overwritten(weights, self.kept):
            await super().load(weights)


@contextmanager
def _overwritten(weights: StagedWeights, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Replaces tensors in the memory of `weights` until the end of the block."""
    published: list[tuple[int, bytes]] = []
    with Path(mapped_file(weights).path).open("r+b", buffering=0) as memory:
        for name, _, shape, offset in weights.entries:
            if name in values:
                data = values[name].contiguous().view(torch.uint8).numpy().tobytes()
                assert len(data) == math.prod(shape) * values[name].element_size()
                memory.seek(offset)
                published.append((offset, memory.read(len(data))))
                memory.seek(offset)
                memory.write(data)
        assert len(published) == len(values)
        yield
        for offset, data in published:
            memory.seek(offset)
            memory.write(data)
