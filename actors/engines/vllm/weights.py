"""A weight transfer back end of vLLM that reads weights from shared memory.

vLLM's worker processes import this module (by `worker_extension_cls`) before the model loads, so that the back end
is registered when the worker looks it up.

    rollout worker                         vLLM worker process
    memory holding all tensors  ──path──►  mmap → model.load_weights (layer-wise reload)
                                           → re-pack the LM head → answer the LM head proof
"""

from __future__ import annotations

from collections.abc import Sequence
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

from actors.interfaces import MappedFile, TensorSlice
from actors.weights.shared_memory import read_tensors

BACKEND = "shared_memory"


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Nothing is agreed on beforehand."""


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """The fields of a MappedFile and the tensors in it; plain values, as vLLM's messages need."""

    path: str
    size_bytes: int
    entries: Sequence[TensorSlice]


class SharedMemoryEngine(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Loads all weights from shared memory of this node."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """There is no connection to open."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            # The copies must have read the shared memory before the worker writes the next weights there.
            torch.cuda.synchronize(self.device)

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        file = MappedFile(path=update_info.path, size_bytes=update_info.size_bytes)
        self.model.load_weights(read_tensors(file, update_info.entries))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            # With tied embeddings the reload does not update the LM head's packed copy.
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead | VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
                    dispatch_cpu_unquantized_gemm(module, remove_weight=False)

    def shutdown(self) -> None:
        """A mapping ends with the tensors that view it."""


class WeightProofs:
    """Worker extension: methods that the engine calls in each vLLM worker process."""

    def alive(self) -> float:
        """Answers between two steps of the engine."""
        return 0.0

    def lm_head_gap(self, path: str, size_bytes: int, entries: Sequence[TensorSlice]) -> float:
        """max |logits(engine) − h·Wᵀ| / max |h·Wᵀ| over a fixed random h, W the published LM head.

        The LM head computes from a packed copy of its weight, which can be stale while the readable weight is right.
        This runs the same code path as sampling. 0 on ranks without the head.
        """
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        names = {name: (dtype, shape, offset) for name, dtype, shape, offset in entries}
        head_name = "lm_head.weight" if "lm_head.weight" in names else "model.embed_tokens.weight"
        if head_name not in names:
            return 0.0
        dtype, shape, offset = names[head_name]
        [(_, weight)] = read_tensors(MappedFile(path=path, size_bytes=size_bytes), [(head_name, dtype, shape, offset)])
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
