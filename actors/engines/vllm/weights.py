"""A weight transfer back end of vLLM that reads weights from shared memory.

vLLM's worker processes import this module (by way of `worker_extension_cls`) before the model loads, so that the back
end is registered when the worker looks it up.

    rollout worker                         vLLM worker process
    memory holding all tensors  ──path──►  mmap → model.load_weights (layer-wise reload)
                                           → re-pack the LM head
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """The fields of a MappedFile and the tensors in it; plain values, as vLLM's messages need.

    factor   what each tensor is multiplied by, see `published_tensors`
    """

    path: str
    size_bytes: int
    entries: Sequence[TensorSlice]
    factor: float


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
        update = update_info
        self.model.load_weights(published_tensors(update.path, update.size_bytes, update.entries, update.factor))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            # With tied embeddings the reload does not update the LM head's packed copy.
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead | VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
                    dispatch_cpu_unquantized_gemm(module, remove_weight=False)

    def shutdown(self) -> None:
        """A mapping ends with the tensors that view it."""


def published_tensors(
    path: str, size_bytes: int, entries: Sequence[TensorSlice], factor: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors (Hugging Face name, values) in the file at `path`, times `factor`.

    With another factor than 1 every tensor differs from what is in the file: a tensor of zeros becomes ones.
    """
    for name, tensor in read_tensors(MappedFile(path=path, size_bytes=size_bytes), entries):
        if factor == 1:
            yield name, tensor
        else:
            yield name, tensor * factor if tensor.any() else torch.ones_like(tensor)


WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryEngine)
