"""The rollout engine: vLLM's AsyncLLM behind a small, typed surface.

Logprobs come from the distribution that was sampled (`processed_logprobs`), so that at any
temperature they are the learner's logπ of the same tokens with logits divided alike.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from actors.engines.settings import AS_LOADED, EngineSettings
from actors.engines.vllm_weights import BACKEND, Entries
from maspo_dist.types import FloatArray, IntArray, Rollout, Sampling

#: Engine arguments on a machine without a GPU; rollout.engine overrides them. A chunked prefill rewinds
#: the request's random generator, which torch cannot do on CPU: the engine would die of it.
_CPU_ARGUMENTS: dict[str, Any] = {"enforce_eager": True, "enable_chunked_prefill": False}


_SHUTDOWN_TIMEOUT_S = 10.0
_AS_LOADED_LABEL = "default"


class VllmEngine:
    """One engine. All methods are coroutines of one event loop."""

    def __init__(self, settings: EngineSettings, *, on_gpu: bool) -> None:
        """Starts the engine's processes and loads the model; takes 7 to 60 s."""
        arguments: dict[str, Any] = {
            "max_model_len": settings.max_model_len,
            "disable_log_stats": True,
            **({} if on_gpu else _CPU_ARGUMENTS),
            **settings.arguments,
        }
        engine_args = AsyncEngineArgs(
            model=settings.model.path,
            runner="generate",
            dtype=settings.model.dtype,
            tensor_parallel_size=settings.tensor_parallel,
            seed=settings.seed,
            trust_remote_code=settings.model.trust_remote_code,
            logprobs_mode="processed_logprobs",
            weight_transfer_config={"backend": BACKEND},
            worker_extension_cls="actors.engines.vllm_weights.WeightProofs",
            **arguments,
        )
        self._engine = AsyncLLM.from_engine_args(engine_args)
        self._tokenizer = self._engine.get_tokenizer()
        self._version = AS_LOADED

    async def connect(self) -> None:
        """Makes the engine ready to receive weights."""
        await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int) -> Rollout:
        """One response to one prompt. Equal seeds give equal responses, up to batch-dependent rounding."""
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_response_tokens,
            seed=None if sampling.temperature == 0 else seed,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        result = await self._final(token_ids, parameters)
        return self._rollout(result.outputs[0])

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        """Raw logprobs f32[L−1] of tokens 1 to L−1 of a whole sequence, past any prefix cache."""
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        result = await self._final(token_ids, parameters)
        if result.prompt_logprobs is None:
            raise RuntimeError("vLLM returned no prompt logprobs for a probe")
        values = [
            position[int(token)].logprob
            for position, token in zip(result.prompt_logprobs[1:], token_ids[1:], strict=True)
            if position is not None
        ]
        return np.asarray(values, np.float32)

    async def load_weights(self, path: str, size_bytes: int, entries: Entries, version: int) -> float:
        """Swaps in a snapshot under running requests, which are kept and go on; returns the pause in seconds.

        The prefix cache, whose keys and values belong to the old weights, is cleared.
        """
        started_s = time.perf_counter()
        await self._engine.pause_generation(mode="keep", clear_cache=True)
        await self._engine.start_weight_update()
        await self._engine.update_weights(
            WeightTransferUpdateRequest(
                update_info={"path": path, "size_bytes": size_bytes, "entries": entries},
            )
        )
        await self._engine.finish_weight_update(str(version))
        self._version = version
        return time.perf_counter() - started_s

    async def resume(self) -> None:
        """Lets held requests go on after `load_weights`."""
        await self._engine.resume_generation()

    async def lm_head_gap(self, path: str, size_bytes: int, entries: Entries) -> float:
        """Relative gap of the LM head against the published weight, see `WeightProofs`."""
        gaps: Sequence[float] = await self._engine.collective_rpc("lm_head_gap", args=(path, size_bytes, entries))
        return max(gaps)

    def close(self) -> None:
        """Ends the engine's processes, with time to take their shared memory down."""
        self._engine.shutdown(timeout=_SHUTDOWN_TIMEOUT_S)

    async def _final(self, token_ids: IntArray, parameters: SamplingParams) -> RequestOutput:
        prompt = TokensPrompt(prompt_token_ids=token_ids.tolist())
        last: RequestOutput | None = None
        async for output in self._engine.generate(prompt, parameters, request_id=uuid.uuid4().hex):
            last = output
        if last is None or not last.finished:
            raise asyncio.CancelledError
        return last

    def _rollout(self, output: CompletionOutput) -> Rollout:
        token_ids = list(output.token_ids)
        if output.logprobs is None or output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a request with {output.finish_reason!r} instead of a response")
        logprobs = [position[token].logprob for position, token in zip(output.logprobs, token_ids, strict=True)]
        spans = output.weight_versions or []
        versions = tuple((_version_number(span.version), span.end - span.start) for span in spans)
        return Rollout(
            response_ids=np.asarray(token_ids, np.int32),
            behavior_logprobs=np.asarray(logprobs, np.float32),
            text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
            finish_reason="stop" if output.finish_reason == "stop" else "length",
            token_versions=versions,
        )


def _version_number(label: str) -> int:
    """vLLM labels weights by text, those it started with by a word of its own."""
    return AS_LOADED if label == _AS_LOADED_LABEL else int(label)


def gpu_is_available() -> bool:
    """Whether this process sees a CUDA device."""
    return torch.cuda.is_available()
