"""What a vLLM worker process computes with, read back to be compared with the published weights.

On the CPU vLLM packs the weight of a linear layer into a form of its own and leaves an empty parameter behind; with
tied embeddings it packs a copy for the LM head. Such a copy can be stale while everything readable is right. A layer
that is given a row of the identity matrix answers with a column of the weight that it computes with, exact to the last
bit: 1 · w plus zeros. Elsewhere the parameter itself is read.

Columns are compared row by row, in any order, so that it does not matter how vLLM fuses, orders or shards rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding

from actors.engines.vllm.readings import Reading, Readings, hash_rows, reading
from actors.engines.vllm.samples import Columns, Sample, Samples

# Registers the weight transfer back end in the worker.
from actors.engines.vllm.weights import OwnTransferEngine, published_tensors
from actors.interfaces import MappedFile, TensorSlice
from actors.weights.shared_memory import read_tensors
from maspo_dist.runs.logs import redirect_output

#: What a read-back calls the copy of the embeddings that the LM head of a CPU computes from.
PACKED_HEAD = "lm_head.weight (the LM head's packed copy)"

#: How layers compute from weights that are not quantized.
_PLAIN = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)

_PIECE_WORDS = 1 << 20
_STEP = 0x9E3779B97F4A7C15


class WeightProofs:
    """Worker extension: methods that the engine calls in each vLLM worker process."""

    def alive(self) -> float:
        """Answers between two steps of the engine."""
        return 0.0

    def log_to(self, path: str) -> None:
        """Sends the output of this process to `path` from now on."""
        redirect_output(Path(path))

    def parameter_hashes(self) -> dict[str, str]:
        """A hash of every parameter of this process that has elements; vLLM's own checksums go through the host.

        Empty where updates bring an adapter, which leaves these parameters as they are.
        """
        if self._transfer.slot is not None:
            return {}
        model: nn.Module = self.model_runner.get_model()  # type: ignore[attr-defined]
        with torch.inference_mode():
            return {name: f"{_hash(weight):016x}" for name, weight in model.named_parameters() if weight.numel()}

    def activate_adapter(self) -> None:
        """Layers compute with the adapter of the last update."""
        assert self._transfer.slot is not None
        self._transfer.slot.activate()

    def transfer_failure(self) -> str | None:
        """Why the last update did not bring all weights to this process."""
        return self._transfer.failure

    def read_back(self, file: dict[str, Any], entries: Sequence[TensorSlice], factor: float, version: int) -> Readings:
        """A reading per parameter of this process that can be compared with the tensors in `file` times `factor`.

        It leaves out parameters without a counterpart among the tensors, such as fused experts, and parameters that
        hold the published values in another form, such as quantized weights. Of an adapter it reads all tensors.
        """
        model: nn.Module = self.model_runner.get_model()  # type: ignore[attr-defined]
        with torch.inference_mode():
            if self._transfer.slot is not None:
                return self._transfer.slot.read_back(published_tensors(MappedFile(**file), entries, factor))
            # A sample is multiplied, not the tensor: that would take longer than all else here.
            return read_back(model, Samples.of(model, version, read_tensors(MappedFile(**file), entries), factor))

    def read_back_samples(self) -> Readings:
        """As `read_back`, of the samples that were kept of the last update."""
        if (slot := self._transfer.slot) is not None:
            return slot.read_back(slot.tensors.items())
        model: nn.Module = self.model_runner.get_model()  # type: ignore[attr-defined]
        assert self._transfer.samples is not None
        with torch.inference_mode():
            return read_back(model, self._transfer.samples)

    @property
    def _transfer(self) -> OwnTransferEngine:
        engine: OwnTransferEngine = self.weight_transfer_engine  # type: ignore[attr-defined]
        return engine


def read_back(model: nn.Module, samples: Samples) -> Readings:
    """See `WeightProofs.read_back`."""
    modules = dict(model.named_modules(remove_duplicate=False))
    head = modules.get("lm_head")
    readings: Readings = {}
    for name, sample in samples.items():
        path, _, attribute = name.rpartition(".")
        parameter = getattr(modules.get(path), attribute, None)
        if not isinstance(parameter, Tensor):
            continue
        if sample.columns is None:
            if parameter.ndim == 1:
                readings[name] = reading(hash_rows(parameter[:, None]), hash_rows(sample.values[:, None]))
        elif parameter.dtype == sample.values.dtype:
            # Tied embeddings are two modules with one parameter, and a packed copy each.
            module = head if getattr(head, "weight", None) is parameter else modules[path]
            readings |= _read_matrix(module, name, parameter, sample, sample.columns, is_head=module is head)
    return readings


def _read_matrix(
    module: Any, name: str, weight: Tensor, sample: Sample, columns: Columns, *, is_head: bool
) -> Iterator[tuple[str, Reading]]:
    """Readings of the weight itself and of the packed copy that the module computes from, where they exist."""
    width = weight.shape[1] if weight.numel() else getattr(module, "input_size_per_partition", columns.width)
    if width != columns.width:
        return
    published = hash_rows(sample.values)
    end = columns.start + columns.count
    if weight.numel():
        yield name, reading(hash_rows(weight[:, columns.start : end]), published)
    is_plain = isinstance(module.quant_method, _PLAIN) if hasattr(module, "quant_method") else False
    # An embedding looks up rows of its parameter and does not use its packed copy.
    if is_plain and hasattr(module, "cpu_linear") and (is_head or not isinstance(module, VocabParallelEmbedding)):
        identity = torch.zeros(columns.count, width, dtype=weight.dtype)
        identity[torch.arange(columns.count), torch.arange(columns.start, end)] = 1
        answer = module.quant_method.apply(module, identity).T
        yield PACKED_HEAD if is_head else name, reading(hash_rows(answer), published)


def _hash(values: Tensor) -> int:
    """64-bit hash of a tensor's bytes, computed on its device, sensitive to order.

    With w the 32-bit words (zero-padded) in pieces of 2^20 and c fixed odd weights: h ← h · φ + Σ_i c_i·w_i mod 2^64.
    """
    data = values.detach().contiguous().view(-1).view(torch.uint8)
    words = nn.functional.pad(data, (0, -data.numel() % 4)).view(torch.int32)
    weights = _word_weights(words.device)
    value = 0
    for piece in torch.split(words, _PIECE_WORDS):
        value = (value * _STEP + int((piece * weights[: piece.numel()]).sum())) % (1 << 64)
    return value


@functools.cache
def _word_weights(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(0, 1 << 62, (_PIECE_WORDS,), generator=generator) * 2 + 1).to(device)
