"""vLLM weight transfer back end that reads a snapshot from shared memory.

Imported inside vLLM's worker processes (by `worker_extension_cls`) before the model loads, so that
the back end is registered by the time the worker looks it up.

    rollout worker                         vLLM worker process
    memfd holding all tensors   ──path──►  mmap → model.load_weights (layer-wise reload)
                                           → re-pack the LM head → answer the LM head proof
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.weights.staged_weights import Entries, read_tensors

BACKEND = "shared_memory"


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """path of the memory, its size, and (name, dtype, shape, offset in bytes) of each tensor."""

    path: str
    size_bytes: int
    entries: Entries


class SharedMemoryEngine(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Loads a whole snapshot from shared memory of this host."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """No connection to open."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        self.model.load_weights(read_tensors(update_info.path, update_info.size_bytes, update_info.entries))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            # With tied embeddings the reload leaves the LM head's packed copy as it was.
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead | VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
                    dispatch_cpu_unquantized_gemm(module, remove_weight=False)

    def shutdown(self) -> None:
        """Mappings end with the tensors that view them."""


class WeightProofs:
    """Worker extension: what the engine says of itself and of the weights that it computes with."""

    def alive(self) -> float:
        """Answers between two steps of the engine."""
        return 0.0

    def lm_head_gap(self, path: str, size_bytes: int, entries: Entries) -> float:
        """max |logits(engine) − h·Wᵀ| / max |h·Wᵀ| over a fixed random h, W the published LM head.

        The LM head computes from a packed copy of its weight, which can go stale while the readable
        weight is right; this runs the very path that sampling uses. 0 on ranks that hold no head.
        """
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        names = {name: (dtype, shape, offset) for name, dtype, shape, offset in entries}
        head_name = "lm_head.weight" if "lm_head.weight" in names else "model.embed_tokens.weight"
        if head_name not in names:
            return 0.0
        dtype, shape, offset = names[head_name]
        [(_, weight)] = read_tensors(path, size_bytes, [(head_name, dtype, shape, offset)])
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(4, weight.shape[1], generator=generator)
        device = next(parameter.device for parameter in model.parameters() if parameter.numel())
        with torch.inference_mode():
            logits = model.compute_logits(hidden.to(device, weight.dtype))
            if logits is None:
                return 0.0
            expected = hidden.to(weight.dtype).float() @ weight.float().T
            gap = (logits[:, : expected.shape[1]].float().cpu() - expected).abs().max()
        return float(gap / expected.abs().max())


WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryEngine)
