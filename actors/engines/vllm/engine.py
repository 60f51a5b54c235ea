"""vLLM's AsyncLLM as a rollout engine.

Logprobs are of the sampled distribution (`processed_logprobs`): at any temperature they equal the learner's logπ of
the same tokens, whose logits are divided by the same temperature.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from actors.engines.vllm.adapter import ADAPTER
from actors.engines.vllm.figures import FiguresLogger
from actors.engines.vllm.platform import vllm_platform
from actors.engines.vllm.weights import BACKEND
from actors.interfaces import AS_LOADED, AdapterSettings, Broadcast, EngineSettings, MappedFile, StagedWeights
from actors.weights.shared_devices import SharedDevices
from actors.weights.shared_memory import mapped_file
from maspo_dist.config.rollout import SLOT_RANKS
from maspo_dist.data.response_text import response_decoder
from maspo_dist.errors import ActorDiedError, WeightTransferError
from maspo_dist.planning.devices import require_libraries, require_platform, require_torch
from maspo_dist.planning.placement import SHARED_ENGINE_SHARE, Device
from maspo_dist.runs.live import EngineFigures
from maspo_dist.types import FloatArray, IntArray, Rollout, Sampling

logger = logging.getLogger(__name__)

#: Engine arguments on a machine without a GPU; rollout.engine overrides them. A chunked prefill rewinds the request's
#: random generator, which torch cannot do on CPU, so that the engine would fail.
_CPU_ARGUMENTS: dict[str, Any] = {"enforce_eager": True, "enable_chunked_prefill": False}

#: Engine arguments on GPUs that learner ranks share; their weights stay while the engine computes.
_SLEEP_ARGUMENTS: dict[str, Any] = {"enable_sleep_mode": True, "gpu_memory_utilization": SHARED_ENGINE_SHARE}

#: The worker's GPUs are all in one bundle; vLLM's own actors would take one bundle each.
_PARALLEL_ARGUMENTS: dict[str, Any] = {"distributed_executor_backend": "mp"}

_SHUTDOWN_TIMEOUT_S = 10.0
_AS_LOADED_LABEL = "default"

#: The factor of the weights that are loaded in between; far above the rounding of bfloat16.
_DETOUR = 1.02


@dataclass(frozen=True, slots=True)
class _Found:
    """What a parameter holds, as a hash, and whether it equals the published values as far as both are known."""

    digest: str
    matches: bool

    def beside(self, digest: str, *, matches: bool) -> _Found:
        """Together with another look at the parameter, or at its part in another process."""
        return _Found(self.digest + digest, self.matches and matches)


_NOTHING = _Found("", True)


class VllmEngine:
    """Implements `interfaces.RolloutEngine`; the contract of each method is there."""

    def __init__(self, settings: EngineSettings, device: Device) -> None:
        """Starts the engine's processes and loads the model; takes 7 to 60 s.

        Raises ConfigError, before it loads anything, when torch or vLLM cannot use `device` here.
        """
        require_torch(device)
        require_platform(device, vllm_platform())
        require_libraries(device)
        arguments: dict[str, Any] = {
            "max_model_len": settings.max_model_len,
            "disable_log_stats": True,
            **({} if device == "cuda" else _CPU_ARGUMENTS),
            **(_SLEEP_ARGUMENTS if device == "cuda" and settings.sleeps else {}),
            **({} if settings.tensor_parallel == 1 else _PARALLEL_ARGUMENTS),
            **({} if settings.adapter is None else _adapter_arguments(settings.adapter)),
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
            worker_extension_cls="actors.engines.vllm.proofs.WeightProofs",
            **arguments,
        )
        # Limits of offline generation: an H100 then takes 1024 sequences at once instead of 128.
        loggers = [FiguresLogger] if settings.counts else []
        self._engine = AsyncLLM.from_engine_args(
            engine_args, usage_context=UsageContext.LLM_CLASS, stat_loggers=loggers
        )
        self._decode = response_decoder(self._engine.get_tokenizer(), settings.reasoning_tags)
        self._receives_weights = False
        self._sleeps = False
        #: Memory for them: false from a sleep to the next `pause`.
        self._holds_weights = True
        self._keeps_kv = settings.keeps_kv
        self._has_adapter = settings.adapter is not None
        self._version = AS_LOADED
        #: Updates of the weights since the start.
        self._loads = 0
        self._other_forms: set[str] = set()
        self._ended_tokens = 0
        # A full collection over everything that vLLM and torch have loaded would block the event loop for 0.3 s.
        freeze_gc_heap()

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        """Equal seeds give equal responses up to rounding that depends on the batch.

        A response that is cut before its first token is sampled again.
        """
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=sampling.max_response_tokens,
            seed=None if sampling.temperature == 0 else seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        while True:
            result = await self._final(token_ids, parameters, cut_after_s)
            if result.outputs[0].token_ids:
                return self._rollout(result.outputs[0])

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        result = await self._final(token_ids, parameters)
        return _logprobs(result.prompt_logprobs, token_ids.size - 1)

    async def pause(self) -> None:
        """Unless keys and values are kept, also clears the prefix cache, and requests in flight are prefilled again."""
        with _engine_death():
            if self._sleeps:
                # A load that failed has left their memory there.
                if not self._holds_weights:
                    await self._engine.wake_up(["weights"])
                    self._holds_weights = True
                return
            await self._engine.pause_generation(mode="keep", clear_cache=not self._keeps_kv)

    async def load(self, weights: StagedWeights) -> None:
        await self._load(weights, 1.0)

    async def load_by_detour(self, weights: StagedWeights) -> Sequence[str]:
        """Loads the weights, then all of them times 1.02, then the weights again.

        After each load it hashes all parameters that have elements, and reads back the others.
        """
        first, other, last = [await self._load_and_look(weights, factor) for factor in (1.0, _DETOUR, 1.0)]
        unreached = [name for name in last if _is_equal(name, first, other) or last[name].digest != first[name].digest]
        # A parameter that follows every load, but never equals what was published, holds it in another form.
        self._other_forms = {name for name in last if not last[name].matches and name not in unreached}
        if self._other_forms:
            logger.warning("not compared with each publish: %s", ", ".join(sorted(self._other_forms)))
        return unreached

    async def stale_parameters(self, weights: StagedWeights) -> Sequence[str]:
        """See `WeightProofs.read_back`."""
        found = await self._read_back(weights, 1.0)
        return [name for name, part in found.items() if not part.matches and name not in self._other_forms]

    async def resume(self) -> None:
        with _engine_death():
            if self._sleeps:
                # Which also resumes generation.
                await self._engine.wake_up(["kv_cache"])
                self._sleeps = False
                return
            await self._engine.resume_generation()

    async def sleep(self) -> None:
        """See `SleepingEngine`. On a CPU, which has no memory of its own to leave, only the scheduler sleeps."""
        if not self._sleeps or self._holds_weights:
            self._sleeps, self._holds_weights = True, False
            with _engine_death():
                # Level 2 drops the weights instead of keeping a copy on the host: new weights come.
                await self._engine.sleep(level=2, mode="keep")

    async def ping(self) -> int:
        """Answers when the engine's processes do, between two of their steps."""
        await self._rpc("alive", ())
        # A request's only output comes at its end: vLLM's own state holds the tokens of open requests.
        states = self._engine.output_processor.request_states.values()
        open_tokens: int = sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer)
        return self._ended_tokens + open_tokens

    def figures(self) -> EngineFigures | None:
        """None unless `EngineSettings.counts`."""
        manager = self._engine.logger_manager
        loggers = manager.stat_loggers if manager else []
        return next((one.figures for one in loggers if isinstance(one, FiguresLogger)), None)

    async def log_to(self, path: Path) -> None:
        """See `MovableEngine`."""
        await self._rpc("log_to", (str(path),))

    async def _load(self, weights: StagedWeights, factor: float) -> None:
        source = weights.source if isinstance(weights.source, Broadcast | SharedDevices) else mapped_file(weights)
        update = {"version": weights.version, "entries": weights.entries, "source": asdict(source), "factor": factor}
        with _engine_death():
            if not self._receives_weights:
                await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
                self._receives_weights = True
            await self._engine.start_weight_update()
            await self._engine.update_weights(WeightTransferUpdateRequest(update_info=update))
            answers = () if isinstance(source, MappedFile) else await self._rpc("transfer_failure", ())
            failures = [failure for failure in answers if failure is not None]
            # Only a part of the new weights may have come: they get no version, and the engine stays paused.
            await self._engine.finish_weight_update(None if failures else str(weights.version))
        if failures:
            raise WeightTransferError(failures[0])
        if self._has_adapter:
            await self._rpc("activate_adapter", ())
        self._version = weights.version
        self._loads += 1

    async def _load_and_look(self, weights: StagedWeights, factor: float) -> dict[str, _Found]:
        await self._load(weights, factor)
        found = await self._read_back(weights, factor)
        for process in await self._rpc("parameter_hashes", ()):
            for name, digest in process.items():
                found[name] = found.get(name, _NOTHING).beside(digest, matches=True)
        return found

    async def _read_back(self, weights: StagedWeights, factor: float) -> dict[str, _Found]:
        """See `WeightProofs.read_back`; over all vLLM worker processes."""
        found: dict[str, _Found] = {}
        if isinstance(weights.source, Broadcast | SharedDevices):
            processes = await self._rpc("read_back_samples", ())
        else:
            arguments = (asdict(mapped_file(weights)), weights.entries, factor, weights.version)
            processes = await self._rpc("read_back", arguments)
        for process in processes:
            for name, (digest, matches) in process.items():
                found[name] = found.get(name, _NOTHING).beside(digest, matches=matches)
        return found

    async def _rpc(self, method: str, arguments: tuple[Any, ...]) -> Sequence[Any]:
        """The answers of all vLLM worker processes."""
        with _engine_death():
            answers: Sequence[Any] = await self._engine.collective_rpc(method, args=arguments)
        return answers

    def close(self) -> None:
        """Ends the engine's processes, with time to remove their shared memory."""
        self._engine.shutdown(timeout=_SHUTDOWN_TIMEOUT_S)

    async def _final(
        self, token_ids: IntArray, parameters: SamplingParams, cut_after_s: float | None = None
    ) -> RequestOutput:
        prompt = TokensPrompt(prompt_token_ids=token_ids.tolist())
        if self._keeps_kv:
            # Blocks of the prefix cache are found by their tokens and this salt, so never under other weights. The
            # version would not do: after the loss of a learner it can come again with other weights.
            prompt["cache_salt"] = str(self._loads)
        # Before the first `load` there is none yet.
        adapter = ADAPTER if self._has_adapter and self._version != AS_LOADED else None
        request_id = uuid.uuid4().hex
        cut: asyncio.TimerHandle | None = None
        cutting: list[asyncio.Task[None]] = []
        if cut_after_s is not None:
            loop = asyncio.get_running_loop()
            cut = loop.call_later(cut_after_s, lambda: cutting.append(loop.create_task(self._engine.abort(request_id))))
        last: RequestOutput | None = None
        try:
            with _engine_death():
                outputs = self._engine.generate(prompt, parameters, request_id=request_id, lora_request=adapter)
                async for output in outputs:
                    last = output
        finally:
            if cut is not None:
                cut.cancel()
            await asyncio.gather(*cutting)
        if last is None or not last.finished:
            raise asyncio.CancelledError
        return last

    def _rollout(self, output: CompletionOutput) -> Rollout:
        token_ids = list(output.token_ids)
        self._ended_tokens += len(token_ids)
        # `_final` aborts a straggler.
        if output.finish_reason not in ("stop", "length", "abort"):
            raise RuntimeError(f"vLLM ended a request with {output.finish_reason!r} instead of a response")
        spans = output.weight_versions or []
        versions = tuple((_version_number(span.version), span.end - span.start) for span in spans)
        return Rollout(
            response_ids=np.asarray(token_ids, np.int32),
            behavior_logprobs=_logprobs(output.logprobs, len(token_ids)),
            text=self._decode(token_ids),
            finish_reason="stop" if output.finish_reason == "stop" else "length",
            token_versions=versions,
        )


@contextmanager
def _engine_death() -> Iterator[None]:
    """Raises ActorDiedError, which the pool handles, when the engine's process is dead or fails in a call."""
    try:
        yield
    except EngineDeadError as error:
        raise ActorDiedError("the engine's process is dead") from error
    except Exception as error:
        # That is how vLLM reports a call that failed in the engine's process. All calls do, for a moment, when a worker
        # process of the engine has died, before the engine is known to be dead.
        if type(error) is not Exception:
            raise
        raise ActorDiedError(f"the engine's process failed: {error}") from error


def _adapter_arguments(adapter: AdapterSettings) -> dict[str, Any]:
    """A slot for one adapter. Other layers stay as they are: on a CPU, vLLM's head fails with adapters."""
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": min(rank for rank in SLOT_RANKS if rank >= adapter.rank),
        "lora_target_modules": list(adapter.layers),
    }


def _is_equal(name: str, one: Mapping[str, _Found], other: Mapping[str, _Found]) -> bool:
    """Whether the parameter is the same; a quantized weight can be, while its scale is not."""
    names = [name, f"{name}_scale"]
    return all(one[found].digest == other[found].digest for found in names if found in one)


def _logprobs(flat: object, tokens: int) -> FloatArray:
    """f32[tokens], the logprob of each token itself; a first token without context has none."""
    if not isinstance(flat, FlatLogprobs) or len(flat.logprobs) != tokens:
        raise RuntimeError(f"vLLM did not return one logprob per token for {tokens} tokens")
    return np.asarray(flat.logprobs, np.float32)


def _version_number(label: str) -> int:
    """vLLM labels weights by text, and the weights that it started with by `_AS_LOADED_LABEL`."""
    return AS_LOADED if label == _AS_LOADED_LABEL else int(label)
