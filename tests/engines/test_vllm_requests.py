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
import asyncio, json, sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from actors.engines.vllm import engine as module
from actors.interfaces import EngineSettings, MappedFile, StagedWeights
from maspo_dist.config import ModelConfig
from maspo_dist.types import Sampling

asked = []


class Recorder:
    def get_tokenizer(self):
        return SimpleNamespace(decode=lambda ids, **_: "")

    async def pause_generation(self, *, mode, clear_cache):
        asked.append([mode, clear_cache])

    async def generate(self, prompt, parameters, request_id):
        asked.append(prompt.get("cache_salt"))
        raise RuntimeError("enough")
        yield

    def __getattr__(self, name):
        async def nothing(*_: Any, **__: Any) -> None:
            return None

        return nothing


async def main() -> None:
    module.AsyncLLM = SimpleNamespace(from_engine_args=lambda *_, **__: Recorder())
    settings = EngineSettings(
        model=ModelConfig(path="none", dtype="float32"),
        max_model_len=8,
        tensor_parallel=1,
        seed=0,
        keeps_kv=sys.argv[1] == "keep",
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
    print(json.dumps(asked))


asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("in_flight_kv", "asked"),
    [
        ("recompute", [["keep", True], None, ["keep", True], None]),
        ("keep", [["keep", False], "4", ["keep", False], "5"]),
    ],
)
def test_kept_keys_and_values_are_met_by_requests_of_their_version_alone(
    in_flight_kv: str, asked: list[object]
) -> None:
    assert printed(SCRIPT, in_flight_kv) == asked


#: The same for the engine that receives weights in a worker process of vLLM.
RECEIVER = """
import json, sys

import torch

from actors.engines.vllm.weights import SharedMemoryEngine

done = []
engine = object.__new__(SharedMemoryEngine)
engine.device = torch.device(sys.argv[1])
engine.parse_update_info = lambda info: info
engine.receive_weights = lambda info: done.append("receive")
torch.cuda.synchronize = lambda device: done.append(f"wait for {device}")
engine.update_weights({})
print(json.dumps(done))
"""


@pytest.mark.parametrize(("device", "done"), [("cuda:1", ["receive", "wait for cuda:1"]), ("cpu", ["receive"])])
def test_a_load_ends_when_the_gpu_has_copied_the_weights(device: str, done: list[str]) -> None:
    assert printed(RECEIVER, device) == done


def printed(script: str, argument: str) -> object:
    """What `script` prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
