"""What the rollout engine asks of vLLM, and what vLLM's worker does, when weights change."""

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

    def get_tokenizer(self):
        return SimpleNamespace(decode=lambda ids, **_: "")

    async def pause_generation(self, *, mode, clear_cache):
        self.asked.append([mode, clear_cache])

    async def generate(self, prompt, parameters, request_id):
        self.asked.append(prompt.get("cache_salt"))
        raise RuntimeError("enough")
        yield

    def __getattr__(self, name):
        async def nothing(*_: Any, **__: Any) -> None:
            return None

        return nothing


async def asked_over_two_publishes(in_flight_kv):
    recorder = Recorder()
    module.AsyncLLM = SimpleNamespace(from_engine_args=lambda *_, **__: recorder)
    settings = EngineSettings(
        model=ModelConfig(path="none", dtype="float32"),
        max_model_len=8,
        tensor_parallel=1,
        seed=0,
        keeps_kv=in_flight_kv == "keep",
        arguments={},
    )
    engine = module.VllmEngine(settings, "cpu")
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
print(json.dumps(found | {device: done_in_a_load(device) for device in ("cuda:1", "cpu")}))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, list[object]]:
    """What the engine asks, by rollout.in_flight_kv, and what a load does, by device."""
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
