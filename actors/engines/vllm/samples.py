"""Columns of published tensors, to be compared with what an engine computes with when the tensors are gone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import RowParallelLinear

#: Columns of each matrix that are read; which, depends on the policy version.
COLUMNS = 8
_START_ELEMENTS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Columns `start` to `start + count` of this process's share of a matrix, whose width is `width`.

    `offset` is that of the first column in the whole matrix.
    """

    width: int
    start: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is known of a parameter's published values.

    values    a whole vector, or the columns of a matrix in the order of its rows
    columns   None for a vector
    """

    values: Tensor
    columns: Columns | None


def changed(part: Tensor, whole: Tensor, factor: float) -> Tensor:
    """`part` of the tensor `whole`, times `factor`; ones if all of `whole` is zero."""
    # The start of a tensor is rarely all zero, and to look at all of it would take as long as to multiply it.
    is_zero = not whole.flatten()[:_START_ELEMENTS].any() and not whole.any()
    return torch.ones_like(part) if is_zero else part * factor


class Samples:
    """Samples by the name of the parameter into which vLLM loads the published tensors."""

    def __init__(self, model: nn.Module, version: int) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._mapper = getattr(model, "hf_to_vllm_mapper", None)
        self._version = version
        self._columns: dict[str, Columns | None] = {}
        self._parts: dict[str, list[Tensor]] = {}

    @classmethod
    def of(cls, model: nn.Module, version: int, tensors: Iterable[tuple[str, Tensor]], factor: float) -> Samples:
        """Of `tensors` as a load with `factor` changes them."""
        samples = cls(model, version)
        for name, tensor in tensors:
            samples.add(name, tensor, factor)
        return samples

    def add(self, hugging_face_name: str, tensor: Tensor, factor: float) -> None:
        """Keeps a part of `tensor`, and no view of it. Tensors that are neither vector nor matrix are left out."""
        name = hugging_face_name if self._mapper is None else self._mapper.map_name(hugging_face_name)
        if name is None or tensor.ndim not in (1, 2):
            return
        columns = self._columns.setdefault(name, self._drawn(name, tensor) if tensor.ndim == 2 else None)
        part = tensor if columns is None else tensor[:, columns.offset : columns.offset + columns.count]
        self._parts.setdefault(name, []).append(part.clone() if factor == 1 else changed(part, tensor, factor))

    def items(self) -> Iterable[tuple[str, Sample]]:
        for name, parts in self._parts.items():
            yield name, Sample(values=torch.cat(parts), columns=self._columns[name])

    def _drawn(self, name: str, matrix: Tensor) -> Columns:
        """Does not look at the parameter, which does not exist while weights are loaded."""
        module = self._modules.get(name.rpartition(".")[0])
        shares, share = (module.tp_size, module.tp_rank) if isinstance(module, RowParallelLinear) else (1, 0)
        width = matrix.shape[1] // shares
        count = min(COLUMNS, width)
        start = random.Random(f"{name} {self._version}").randrange(width - count + 1)
        return Columns(width=width, start=start, count=count, offset=share * width + start)
