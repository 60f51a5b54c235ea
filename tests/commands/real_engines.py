"""python real_engines.py RUNS EXPORT ADAPTER: what vLLM engines do with the runs of exported_runs.py; prints JSON.

The engines run in this process: with processes of their own, each would import vLLM again.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from actors.engines.vllm.weights import BACKEND
from actors.interfaces import Broadcast, BroadcastGroup, StagedWeights
from actors.learner.weights import LearnerWeights
from actors.weights.layout import entry_of
from actors.weights.object_store import ObjectStoreTransport
from actors.weights.shared_devices import SharedDevices
from actors.weights.shared_memory import mapped_file, read_tensors

TEXT = "xy + 12 = x, xxy"
_SMALL: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 129,
    "num_gpu_blocks_override": 64,
    "enforce_eager": True,
}


def main(runs: Path, export: Path, adapter: Path) -> dict[str, Any]:
    """The gaps of an export and of an adapter to the learner, and for each run's model what `publish` finds."""
    # All are kept: an engine that ends would take the process groups of the others with it.
    windows, mixed, exported = (start(model) for model in (runs / "windows", runs / "mixed", export))
    # Wrapped for adapters, the head of vLLM on CPU cannot answer for prompts.
    layers = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    base = LLM(str(runs / "qwen3"), **_SMALL, enable_lora=True, max_lora_rank=8, lora_target_modules=layers)
    probes = runs / "probes.npz"
    return {
        "untied": publish(windows, runs / "untied"),
        "tied": publish(mixed, runs / "tied"),
        "export": gap(exported, runs / "tied" / "logprobs.npz", probes),
        "base": gap(base, runs / "adapters" / "loaded_logprobs.npz", probes),
        "adapter": gap(base, runs / "adapters" / "logprobs.npz", probes, LoRARequest("policy", 1, str(adapter))),
    }


def start(model: Path) -> LLM:
    """An engine with the arguments that a rollout worker gives it, and little room for keys and values."""
    return LLM(
        str(model),
        **_SMALL,
        enable_chunked_prefill=False,
        logprobs_mode="processed_logprobs",
        weight_transfer_config={"backend": BACKEND},
        worker_extension_cls="actors.engines.vllm.proofs.WeightProofs",
    )


def publish(engine: LLM, run: Path) -> dict[str, Any]:
    """Gaps to the learner with the weights of the model folder and with those of the learner, and what is served."""
    probes = run.parent / "probes.npz"
    loaded = gap(engine, run / "loaded_logprobs.npz", probes)
    transport = ObjectStoreTransport()
    weights = asyncio.run(transport.receive(pickle.loads((run / "snapshot.pickle").read_bytes())))
    load(engine, weights)
    published = gap(engine, run / "logprobs.npz", probes)
    learner = LearnerWeights(0, torch.device("cpu"), "127.0.0.1")
    ends = [
        *broadcast(engine, weights, learner, factor=1.02, abandons=False),
        *broadcast(engine, weights, learner, factor=1.02, abandons=True),
    ]
    broadcast(engine, weights, learner, factor=1.0, abandons=False)
    broadcasted, missed = gap(engine, run / "logprobs.npz", probes), stale(engine)
    reads = [share(engine, weights, learner, factor=1.02, is_gone=is_gone) for is_gone in (False, True)]
    share(engine, weights, learner, factor=1.0, is_gone=False)
    [answer] = engine.generate([TEXT], SamplingParams(temperature=0.0, max_tokens=16), use_tqdm=False)
    return {
        "loaded": loaded,
        "published": published,
        "broadcast": broadcasted,
        "ends": ends,
        "reads": reads,
        "shared": gap(engine, run / "logprobs.npz", probes),
        "stale": missed + stale(engine),
        "prompt": list(answer.prompt_token_ids),
        "response": list(answer.outputs[0].token_ids),
        "text": answer.outputs[0].text,
    }


def load(engine: LLM, weights: StagedWeights) -> None:
    update(engine, {"version": weights.version, "entries": weights.entries, "source": asdict(mapped_file(weights))})


def update(engine: LLM, information: dict[str, Any]) -> None:
    engine.reset_prefix_cache()
    engine.init_weight_transfer_engine({"init_info": {}})
    engine.start_weight_update()
    engine.update_weights({"update_info": information})
    engine.finish_weight_update()


def broadcast(engine: LLM, weights: StagedWeights, learner: LearnerWeights, *, factor: float, abandons: bool) -> Any:
    """Broadcasts `weights` times `factor` to the engine: how it ended for the learner, and for the engine.

    With `abandons` the learner abandons the broadcast after half of the tensors.
    """
    tensors = [(name, tensor * factor) for name, tensor in read_tensors(mapped_file(weights), weights.entries)]
    announced = learner.announce(weights.version, [entry_of(name, tensor) for name, tensor in tensors])
    name = f"{factor} {abandons}"
    group = BroadcastGroup(address=announced.address, port=announced.port, name=name, engine_ranks=1, deadline_s=30.0)

    def sent() -> Iterator[tuple[str, torch.Tensor]]:
        for index, item in enumerate(tensors):
            if abandons and index == len(tensors) // 2:
                learner.abandon(group)
            yield item

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(learner.send, Broadcast(group=group, number=1, first_rank=0), sent())
        entries = [(*entry, 0) for entry in announced.entries]
        source = asdict(Broadcast(group=group, number=1, first_rank=1))
        update(engine, {"version": weights.version, "entries": entries, "source": source})
    [failure] = engine.collective_rpc("transfer_failure")
    return sending.result().failure, failure


def share(engine: LLM, weights: StagedWeights, learner: LearnerWeights, *, factor: float, is_gone: bool) -> Any:
    """Shares `weights` times `factor` with the engine; returns why the engine cannot read them. With `is_gone` the
    learner stops sharing before the engine reads.
    """
    tensors = [(name, tensor * factor) for name, tensor in read_tensors(mapped_file(weights), weights.entries)]
    entries = [entry_of(name, tensor) for name, tensor in tensors]
    shared = learner.share(weights.version, entries, tensors)
    if is_gone:
        learner.unshare()
    assert isinstance(shared.source, SharedDevices)
    update(engine, {"version": shared.version, "entries": shared.entries, "source": asdict(shared.source)})
    learner.unshare()
    [failure] = engine.collective_rpc("transfer_failure")
    return failure


def stale(engine: LLM) -> list[str]:
    """Parameters that do not hold what the last broadcast or sharing brought; all are read."""
    [readings] = engine.collective_rpc("read_back_samples")
    assert len(readings) > 8
    return [name for name, (_, matches) in readings.items() if not matches]


def gap(engine: LLM, logprobs: Path, probes: Path, adapter: LoRARequest | None = None) -> float:
    """Largest difference between the engine's logprobs of `probes` and the learner's."""
    with np.load(logprobs) as answers, np.load(probes) as sequences:
        wanted, prompts = list(answers.values()), [sequence.tolist() for sequence in sequences.values()]
    parameters = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    questions = [{"prompt_token_ids": ids} for ids in prompts]
    outputs = engine.generate(questions, parameters, use_tqdm=False, lora_request=adapter)
    gaps = []
    for output, ids, logprobs_of in zip(outputs, prompts, wanted, strict=True):
        assert output.prompt_logprobs is not None
        following = zip(output.prompt_logprobs[1:], ids[1:], strict=True)
        got = np.array([position[token].logprob for position, token in following if position is not None], np.float32)
        gaps.append(float(np.abs(got - logprobs_of).max()))
    return max(gaps)


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:]))))
