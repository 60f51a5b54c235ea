"""python experts_reload.py MODEL: updates of experts in vLLM; prints distances of its layers to those of transformers.

The model is in this process; no engine runs.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.forward_context import set_forward_context
from vllm.model_executor.model_loader import get_model

from actors.engines.vllm.weights import OwnTransferEngine
from actors.ray.on_node import free_port


def main(path: str) -> list[float]:
    """Of the layers as loaded, and after each of two updates with other weights."""
    # vLLM's worker on a CPU does this too.
    torch.accelerator.empty_cache = lambda: None
    theirs = AutoModelForCausalLM.from_pretrained(path)
    arguments = EngineArgs(
        model=path, dtype="float32", max_model_len=129, num_gpu_blocks_override=64, enforce_eager=True
    )
    settings = arguments.create_engine_config()
    torch.manual_seed(0)
    with set_current_vllm_config(settings), torch.no_grad():
        init_distributed_environment(1, 0, f"tcp://127.0.0.1:{free_port()}", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        ours = get_model(vllm_config=settings)
        distances = [distance(ours, theirs, settings)]
        for _ in range(2):
            update(ours, theirs, settings)
            distances.append(distance(ours, theirs, settings))
    return distances


def update(ours: Any, theirs: Any, settings: VllmConfig) -> None:
    """Moves their weights, and loads them under the names that a learner publishes."""
    for parameter in theirs.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    back_end = OwnTransferEngine.__new__(OwnTransferEngine)
    back_end.model, back_end.model_config, back_end.device = ours, settings.model_config, torch.device("cpu")
    back_end.start_weight_update()
    ours.load_weights((name, parameter.detach()) for name, parameter in theirs.named_parameters())
    back_end.finish_weight_update()


def distance(ours: Any, theirs: Any, settings: VllmConfig) -> float:
    """Largest difference of the feed-forward parts of all layers."""
    hidden = torch.randn(13, 64)
    gaps = []
    for own_layer, layer in zip(ours.model.layers, theirs.model.layers, strict=True):
        with set_forward_context(None, settings):
            gaps.append((own_layer.mlp(hidden.clone()) - layer.mlp(hidden[None])[0]).abs().max().item())
    return max(gaps)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
