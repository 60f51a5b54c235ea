"""A weight transfer back end of vLLM that reads weights from memory of its node, or takes part in a broadcast.

vLLM's worker processes import this module (by way of `worker_extension_cls`) before the model loads, so that the back
end is registered when the worker looks it up.

    rollout worker                         vLLM worker process
    memory holding all tensors  ──path──►  mmap → model.load_weights (layer-wise reload)
    learner rank 0  ───────broadcast────►  buckets → model.load_weights
    learner on this device  ────handle──►  its memory → model.load_weights
                                           → re-pack the LM head

An engine with a slot for an adapter gets adapters instead, and keeps the weights that it started with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import TypeAdapter
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.utils.nccl import unpinned_nccl_env

from actors.engines.vllm.adapter import AdapterSlot
from actors.engines.vllm.experts import pack_experts_again
from actors.engines.vllm.samples import Samples, changed
from actors.interfaces import Broadcast, MappedFile, TensorSlice
from actors.weights.collective import receive
from actors.weights.group import GroupMember
from actors.weights.ipc import OpenedMemory
from actors.weights.shared_devices import SharedDevices
from actors.weights.shared_memory import read_tensors
from maspo_dist.errors import WeightTransferError

BACKEND = "maspo_dist"

Source = MappedFile | Broadcast | SharedDevices
_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


@dataclass
class OwnInit(WeightTransferInitInfo):
    """Nothing is agreed on beforehand."""


@dataclass
class OwnUpdate(WeightTransferUpdateInfo):
    """All tensors of an update, and where they are; plain values, as vLLM's messages need.

    source      the fields of a Source
    factor      what each tensor of a file is multiplied by, see `published_tensors`
    """

    version: int
    entries: Sequence[TensorSlice]
    source: dict[str, Any]
    factor: float = 1.0


class OwnTransferEngine(WeightTransferEngine[OwnInit, OwnUpdate]):
    """Loads all weights, or the adapter.

    slot      for the adapter; None in an engine that gets all weights
    samples   of the tensors of the last update, see `Samples`; None where they came from a file
    failure   of the last update; None when it brought all bytes
    """

    init_info_cls = OwnInit
    update_info_cls = OwnUpdate

    samples: Samples | None = None
    failure: str | None = None
    _member: GroupMember | None = None
    _memory: OpenedMemory | None = None

    @cached_property
    def slot(self) -> AdapterSlot | None:
        return AdapterSlot(self.model) if hasattr(self.model, "lora_manager") else None

    def init_transfer_engine(self, init_info: OwnInit) -> None:
        """A broadcast joins its group."""

    def start_weight_update(self) -> None:
        if self.slot is not None:
            return
        if self.device.type == "cpu":
            pack_experts_again(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            # The copies must have read the shared memory before the worker writes the next weights there.
            torch.cuda.synchronize(self.device)

    def receive_weights(self, update_info: OwnUpdate) -> None:
        """Where bytes are missing, `failure` is set and another update may follow; an exception would end vLLM."""
        update, source = update_info, _SOURCE.validate_python(update_info.source)
        self.failure = self.samples = None
        if isinstance(source, MappedFile):
            self._load(published_tensors(source, update.entries, update.factor))
            return
        try:
            if isinstance(source, Broadcast):
                self._load(self._sampled(update, self._received(update, source)))
            else:
                self._memory = OpenedMemory(source, self.device)
                self._load(self._sampled(update, self._memory.read(update.entries)))
        except WeightTransferError as error:
            self.failure = str(error)
            self._leave(self.failure)
        except BaseException as error:
            self._leave(repr(error))
            raise

    def finish_weight_update(self) -> None:
        if self.slot is not None:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        if self._memory is not None:
            # The copies must have been made before the memory is closed.
            self._memory.close()
            self._memory = None
        if self.device.type == "cpu":
            # With tied embeddings the reload does not update the LM head's packed copy.
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead | VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
                    dispatch_cpu_unquantized_gemm(module, remove_weight=False)

    def shutdown(self) -> None:
        """A mapping ends with the tensors that view it."""
        self._leave("the engine ends")

    def _load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        if self.slot is None:
            self.model.load_weights(tensors)
        else:
            self.slot.put(tensors)

    def _received(self, update: OwnUpdate, broadcast: Broadcast) -> Iterator[tuple[str, torch.Tensor]]:
        group = broadcast.group
        if self._member is None or self._member.group != group:
            self._leave("another group takes its place")
            # vLLM pins settings of NCCL for its own groups.
            with unpinned_nccl_env():
                self._member = GroupMember(group, broadcast.first_rank + self.parallel_config.rank, self.device)
        yield from receive(self._member, broadcast.number, [entry[:3] for entry in update.entries])

    def _sampled(
        self, update: OwnUpdate, tensors: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """`tensors`, which are there once; keeps samples of them."""
        self.samples = Samples(self.model, update.version)
        for name, tensor in tensors:
            self.samples.add(name, tensor, 1.0)
            yield name, tensor

    def _leave(self, reason: str) -> None:
        member, self._member = self._member, None
        if member is not None:
            member.leave(reason)


def published_tensors(
    file: MappedFile, entries: Sequence[TensorSlice], factor: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors (Hugging Face name, values) in `file`, times `factor`.

    With another factor than 1 every tensor differs from what is in the file: a tensor of zeros becomes ones.
    """
    for name, tensor in read_tensors(file, entries):
        yield name, tensor if factor == 1 else changed(tensor, tensor, factor)


WeightTransferEngineFactory.register_engine(BACKEND, OwnTransferEngine)
