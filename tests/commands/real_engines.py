"""python real_engines.py RUNS EXPORT ADAPTER: what vLLM engines do with the runs of exported_runs.py; prints JSON.

The engines run in this process: with processes of their own, each would import vLLM again.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from actors.engines.vllm.weights import BACKEND
from actors.interfaces import StagedWeights
from actors.weights.object_store import ObjectStoreTransport
from actors.weights.shared_memory import mapped_file

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
    [answer] = engine.generate([TEXT], SamplingParams(temperature=0.0, max_tokens=16), use_tqdm=False)
    return {
        "loaded": loaded,
        "published": gap(engine, run / "logprobs.npz", probes),
        "prompt": list(answer.prompt_token_ids),
        "response": list(answer.outputs[0].token_ids),
        "text": answer.outputs[0].text,
    }


def load(engine: LLM, weights: StagedWeights) -> None:
    file = mapped_file(weights)
    update = {"path": file.path, "size_bytes": file.size_bytes, "entries": weights.entries, "factor": 1.0}
    engine.reset_prefix_cache()
    engine.init_weight_transfer_engine({"init_info": {}})
    engine.start_weight_update()
    engine.update_weights({"update_info": update})
    engine.finish_weight_update()


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
