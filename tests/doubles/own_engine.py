"""A rollout engine as a user would write one: it samples the token that its one weight names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from actors.interfaces import AS_LOADED, EngineSettings, StagedWeights
from actors.weights.shared_memory import mapped_file, read_tensors
from maspo_dist.planning.placement import Device
from maspo_dist.types import FloatArray, IntArray, Rollout, Sampling


class CountingEngine:
    """Samples one token per turn of the event loop; its logprob is minus the weight."""

    def __init__(self, settings: EngineSettings, device: Device) -> None:
        self._settings = settings
        self._version = AS_LOADED
        self._weight = 0.0
        self._tokens = 0
        self._runs = asyncio.Event()
        self._runs.set()

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        logprobs: list[float] = []
        versions: dict[int, int] = {}
        for _ in range(sampling.max_response_tokens):
            await asyncio.sleep(0.001)
            await self._runs.wait()
            logprobs.append(-self._weight)
            self._tokens += 1
            versions[self._version] = versions.get(self._version, 0) + 1
        return Rollout(
            response_ids=np.full(len(logprobs), 5, np.int32),
            behavior_logprobs=np.asarray(logprobs, np.float32),
            text=str(seed),
            finish_reason="length",
            token_versions=tuple(versions.items()),
        )

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        return np.full(token_ids.size - 1, -self._weight, np.float32)

    async def pause(self) -> None:
        self._runs.clear()

    async def load(self, weights: StagedWeights) -> None:
        tensors = dict(read_tensors(mapped_file(weights), weights.entries))
        self._weight = float(tensors["weight"][0])
        self._version = weights.version

    async def resume(self) -> None:
        self._runs.set()

    async def load_by_detour(self, weights: StagedWeights) -> Sequence[str]:
        await self.load(weights)
        return ()

    async def stale_parameters(self, weights: StagedWeights) -> Sequence[str]:
        return ()

    async def ping(self) -> int:
        return self._tokens

    def close(self) -> None:
        self._runs.clear()


class MuteEngine:
    """Generates, but takes no weights."""

    async def generate(self) -> None:
        pass
