"""python vllm_requests.py: what the rollout engine asks of vLLM, as JSON. An AsyncLLM that records takes its place."""

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.engines.vllm import engine as module
from actors.engines.vllm.samples import Samples
from actors.engines.vllm.weights import OwnTransferEngine
from actors.interfaces import EngineSettings, MappedFile, StagedWeights
from maspo_dist.config import ModelConfig
from maspo_dist.errors import ActorDiedError
from maspo_dist.types import Sampling


class Recorder:
    def __init__(self):
        self.asked = []
        self.are_flat = []

    def get_tokenizer(self):
        return SimpleNamespace(decode=lambda ids, **_: "", all_special_tokens=[])

    async def pause_generation(self, *, mode, clear_cache):
        self.asked.append([mode, clear_cache])

    async def generate(self, prompt, parameters, request_id, lora_request):
        self.asked.append(prompt.get("cache_salt"))
        self.are_flat.append(parameters.flat_logprobs)
        raise RuntimeError("enough")
        yield

    def __getattr__(self, name):
        async def nothing(*_: Any, **__: Any) -> None:
            return None

        return nothing


def make_engine(recorder, keeps_kv):
    def make(engine_args, usage_context, stat_loggers):
        recorder.limits_of = usage_context.name
        return recorder

    module.AsyncLLM = SimpleNamespace(from_engine_args=make)
    settings = EngineSettings(
        model=ModelConfig(path="none", dtype="float32"),
        max_model_len=8,
        tensor_parallel=1,
        seed=0,
        keeps_kv=keeps_kv,
        arguments={},
    )
    return module.VllmEngine(settings, "cpu")


async def asked_over_publishes(in_flight_kv):
    recorder = Recorder()
    engine = make_engine(recorder, in_flight_kv == "keep")
    for version in (4, 5, 5):  # a new learner makes the last version again
        await engine.pause()
        source = MappedFile(path="none", size_bytes=0)
        await engine.load(StagedWeights(version=version, entries=(), source=source))
        await engine.resume()
        with suppress(RuntimeError):
            await engine.generate(np.asarray([1], np.int32), Sampling(temperature=1.0, max_response_tokens=2), 0, None)
    return recorder.asked


async def asked_once():
    recorder = Recorder()
    engine = make_engine(recorder, False)
    for request in (
        engine.generate(np.asarray([1], np.int32), Sampling(temperature=1.0, max_response_tokens=2), 0, None),
        engine.prompt_logprobs(np.asarray([1, 2], np.int32)),
    ):
        with suppress(RuntimeError):
            await request
    return [recorder.limits_of, recorder.are_flat]


def done_in_a_load(device):
    # The engine that receives weights in a worker process of vLLM.
    done = []
    engine = object.__new__(OwnTransferEngine)
    engine.device = torch.device(device)
    engine.parse_update_info = lambda info: info
    engine.receive_weights = lambda info: done.append("receive")
    torch.cuda.synchronize = lambda device: done.append(f"wait for {device}")
    engine.update_weights({})
    return done


async def said_of_a_failed_call():
    # The words of an engine of which a tensor-parallel rank was killed.
    words = "Call to collective_rpc method failed: collective_rpc should not be called on follower node"
    engine = make_engine(Recorder(), False)
    engine._engine.collective_rpc = mock.AsyncMock(side_effect=Exception(words))
    try:
        await engine.ping()
    except ActorDiedError as error:
        return str(error)


class Multiplied(TorchDispatchMode):
    """Counts the elements of all products."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        answer = function(*args, **(kwargs or {}))
        if function.overloadpacket is torch.ops.aten.mul:
            self.elements += answer.numel()
        return answer


def detour():
    # Samples of what a load with a factor makes of a large matrix, a vector and zeros.
    matrix, vector, zeros = torch.randn(300, 200), torch.randn(200), torch.zeros(300)
    tensors = {"matrix": matrix, "vector": vector, "zeros": zeros}
    with Multiplied() as multiplied:
        samples = dict(Samples.of(torch.nn.Module(), 3, tensors.items(), 1.02).items())
    start = samples["matrix"].columns.start
    wanted = {"matrix": matrix[:, start : start + 8] * 1.02, "vector": vector * 1.02, "zeros": torch.ones(300)}
    return [multiplied.elements, [name for name in wanted if not torch.equal(samples[name].values, wanted[name])]]


found = {kv: asyncio.run(asked_over_publishes(kv)) for kv in ("recompute", "keep")}
found["once"] = asyncio.run(asked_once())
found["failed"] = asyncio.run(said_of_a_failed_call())
found["detour"] = detour()
print(json.dumps(found | {device: done_in_a_load(device) for device in ("cuda:1", "cpu")}))
