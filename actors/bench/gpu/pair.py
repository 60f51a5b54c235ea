"""An engine and a learner of the same model on this device, and what checks ask of the engine beyond its contract."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from actors.engines.deepspeed.engine import DeepSpeedEngine
from actors.engines.settings import adapter_settings
from actors.engines.vllm.engine import VllmEngine
from actors.interfaces import EngineSettings
from actors.ray.on_node import free_port
from maspo_dist.config import TrainConfig
from maspo_dist.types import FloatArray, IntArray

if TYPE_CHECKING:
    from actors.bench.gpu.workplace import Workplace

T = TypeVar("T")

PROMPT_TOKENS = 16
#: Share of the GPU for the engine, beside the learner's weights and optimizer state.
_ENGINE_MEMORY = 0.35
_NOTHING = hashlib.sha256().hexdigest()


class OpenEngine(VllmEngine):
    """The engine of a rollout worker."""

    async def sample_unseeded(self, token_ids: IntArray, tokens: int) -> int:
        """Samples one response without a random generator of its own; returns its tokens."""
        parameters = SamplingParams(
            temperature=1.0,
            max_tokens=tokens,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return len((await self._final(token_ids, parameters)).outputs[0].token_ids)

    async def digests(self) -> dict[str, str]:
        """SHA-256 of each parameter that holds elements, by rank and vLLM's name."""
        by_rank: list[dict[str, str]] = await self._engine.compute_weight_checksums()
        return {name: digest for rank in by_rank for name, digest in rank.items() if digest != _NOTHING}


class Pair:
    """Both sides, in an event loop of their own; `close` ends the engine."""

    def __init__(self, place: Workplace, config: TrainConfig, tensor_parallel: int = 1) -> None:
        """Starts the engine, which takes a minute on a GPU."""
        self.place = place
        self.config = config
        self._runner = asyncio.Runner()
        self.engine = self.run(self._start_engine(tensor_parallel))

    async def _start_engine(self, tensor_parallel: int) -> OpenEngine:
        """Runs in the event loop that the engine belongs to."""
        setting = self.place.setting
        settings = EngineSettings(
            model=self.config.model,
            max_model_len=setting.scale.response_tokens + PROMPT_TOKENS + 1,
            tensor_parallel=tensor_parallel,
            seed=0,
            keeps_kv=False,
            adapter=adapter_settings(self.config),
            arguments={"gpu_memory_utilization": _ENGINE_MEMORY} if setting.device == "cuda" else {},
        )
        return OpenEngine(settings, setting.device)

    @cached_property
    def learner(self) -> DeepSpeedEngine:
        """One rank, started at the first use."""
        return DeepSpeedEngine(self.config, self.place.setting.device, 0, 1, f"tcp://127.0.0.1:{free_port()}")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def prompts(self, count: int) -> list[IntArray]:
        """Random token ids, the same at each call."""
        rng = np.random.default_rng(1)
        vocabulary = self.place.setting.scale.shape.vocabulary
        return list(rng.integers(0, vocabulary, (count, PROMPT_TOKENS)).astype(np.int32))

    def close(self) -> None:
        self.engine.close()
        self._runner.close()


def gaps(ours: Sequence[FloatArray], theirs: Sequence[FloatArray]) -> dict[str, float]:
    """Mean, 99th percentile and largest of |ours − theirs| over all tokens."""
    gap = np.abs(np.concatenate(ours) - np.concatenate(theirs))
    return {"mean": float(gap.mean()), "p99": float(np.quantile(gap, 0.99)), "max": float(gap.max())}
