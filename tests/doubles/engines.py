"""A rollout engine without a model. It needs no torch, so an actor that serves it starts in a second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from actors.interfaces import StagedWeights
from actors.weights.shared_memory import mapped_file
from maspo_dist.types import FloatArray, IntArray, Rollout, Sampling


class FakeEngine:
    """Responses depend on the seed alone; logprobs on the loaded weights."""

    def __init__(self) -> None:
        self.version = -1
        self.weight = 0.0
        self.stale = False
        self.unreached: Sequence[str] = ()
        self.stale_names: Sequence[str] = ()
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        await self.gate.wait()
        tokens = seed % sampling.max_response_tokens + 1
        return Rollout(
            response_ids=np.full(tokens, 5, np.int32),
            behavior_logprobs=np.full(tokens, -0.5, np.float32),
            text=str(seed),
            finish_reason="stop",
            token_versions=((self.version, tokens),),
        )

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        return np.full(token_ids.size - 1, -self.weight, np.float32)

    async def pause(self) -> None:
        pass

    async def load(self, weights: StagedWeights) -> None:
        if not self.stale:
            with open(mapped_file(weights).path, "rb") as memory:  # noqa: ASYNC230, PTH123 (memory, not a disk)
                self.weight = float(np.frombuffer(memory.read(4), np.float32)[0])
        self.version = weights.version

    async def resume(self) -> None:
        pass

    async def ping(self) -> int:
        await self.gate.wait()
        return 0

    async def load_by_detour(self, weights: StagedWeights) -> Sequence[str]:
        await self.load(weights)
        return self.unreached

    async def stale_parameters(self, weights: StagedWeights) -> Sequence[str]:
        return self.stale_names

    def close(self) -> None:
        self.closed = True
