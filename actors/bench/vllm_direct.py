"""Bare AsyncLLM of vLLM: the yardstick of the rollout bench."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from maspo_dist.types import RolloutRequest


class DirectEngine:
    """One engine on the CPU, with the arguments of a rollout worker's engine."""

    def __init__(self, model: str, max_model_len: int) -> None:
        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=model,
                runner="generate",
                dtype="float32",
                max_model_len=max_model_len,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                enforce_eager=True,
                enable_chunked_prefill=False,
            ),
            usage_context=UsageContext.LLM_CLASS,
        )

    async def sample(self, requests: Sequence[RolloutRequest]) -> int:
        """Samples the responses to all requests at once. Returns the number of their tokens."""
        counts = await asyncio.gather(
            *(self._one(request, sample) for request in requests for sample in range(request.num_samples))
        )
        return sum(counts)

    def close(self) -> None:
        self._engine.shutdown(timeout=10.0)

    async def _one(self, request: RolloutRequest, sample: int) -> int:
        parameters = SamplingParams(
            temperature=request.sampling.temperature,
            max_tokens=request.sampling.max_response_tokens,
            seed=request.seed + sample,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=request.prompt.token_ids.tolist())
        tokens = 0
        async for output in self._engine.generate(prompt, parameters, request_id=uuid.uuid4().hex):
            tokens = len(output.outputs[0].token_ids)
        return tokens
