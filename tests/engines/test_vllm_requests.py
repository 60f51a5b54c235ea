"""What the rollout engine asks of vLLM, at its start and when weights change, and what vLLM's worker does then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: In a process of its own, since vLLM's import takes seconds and warns. An AsyncLLM that records takes vLLM's place.
SCRIPT = """
import asyncio, json
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from actors.engines.vllm import engine as module
from actors.engines.vllm.weights import OwnTransferEngine
from actors.interfaces import EngineSettings, MappedFile, StagedWeights
from maspo_dist.config import ModelConfig
from maspo_dist.types import Sampling


class Recorder:
    def __init__(self):
        self.asked = []
        self.are_flat = []

    def get_tokenizer(self):
        return SimpleNamespace(decode=lambda ids, **_: "")

    async def pause_generation(self, *, mode, clear_cache):
        self.asked.append([mode, clear_cache])

    async def generate(self, prompt, parameters, request_id):
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


async def asked_over_two_publishes(in_flight_kv):
    recorder = Recorder()
    engine = make_engine(recorder, in_flight_kv == "keep")
    for version in (4, 5):
        await engine.pause()
        source = MappedFile(path="none", size_bytes=0)
        await engine.load(StagedWeights(version=version, entries=(), source=source))
        await engine.resume()
        try:
            await engine.generate(np.asarray([1], np.int32), Sampling(temperature=1.0, max_response_tokens=2), 0, None)
        except RuntimeError:
            pass
    return recorder.asked


async def asked_once():
    recorder = Recorder()
    engine = make_engine(recorder, False)
    for request in (
        engine.generate(np.asarray([1], np.int32), Sampling(temperature=1.0, max_response_tokens=2), 0, None),
        engine.prompt_logprobs(np.asarray([1, 2], np.int32)),
    ):
        try:
            await request
        except RuntimeError:
            pass
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


found = {kv: asyncio.run(asked_over_two_publishes(kv)) for kv in ("recompute", "keep")}
found["once"] = asyncio.run(asked_once())
print(json.dumps(found | {device: done_in_a_load(device) for device in ("cuda:1", "cpu")}))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, list[object]]:
    """What the engine asks, by rollout.in_flight_kv and once, and what a load does, by device."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    printed: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return printed


@pytest.mark.parametrize(
    ("in_flight_kv", "asked"),
    [
        ("recompute", [["keep", True], None, ["keep", True], None]),
        ("keep", [["keep", False], "4", ["keep", False], "5"]),
    ],
)
def test_kept_keys_and_values_are_met_by_requests_of_their_version_alone(
    found: dict[str, list[object]], in_flight_kv: str, asked: list[object]
) -> None:
    assert found[in_flight_kv] == asked


@pytest.mark.parametrize(("device", "done"), [("cuda:1", ["receive", "wait for cuda:1"]), ("cpu", ["receive"])])
def test_a_load_ends_when_the_gpu_has_copied_the_weights(
    found: dict[str, list[object]], device: str, done: list[str]
) -> None:
    assert found[device] == done


def test_an_engine_has_the_limits_of_offline_generation_and_gets_logprobs_as_arrays(
    found: dict[str, list[object]],
) -> None:
    assert found["once"] == ["LLM_CLASS", [True, True]]
