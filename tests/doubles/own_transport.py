"""A weight transport as a user would write one: the learner writes a file that every worker maps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from actors.interfaces import MappedFile, StagedWeights, WeightSnapshot
from maspo_dist.errors import LearnerLostError


class FileTransport:
    """Weights in one file of the node's temporary folder, without gaps; float32 only."""

    def export(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]], rank: int) -> WeightSnapshot | None:
        whole = list(tensors)
        if rank > 0:
            return None
        data = b"".join(tensor.numpy().tobytes() for _, tensor in whole)
        with tempfile.NamedTemporaryFile(prefix="weights-", delete=False) as file:
            file.write(data)
        entries = tuple((name, "float32", tuple(tensor.shape)) for name, tensor in whole)
        return WeightSnapshot(version=version, entries=entries, payload=(file.name,), fingerprint=0)

    async def receive(self, snapshot: WeightSnapshot) -> StagedWeights:
        [path] = snapshot.payload
        if not Path(path).exists():  # noqa: ASYNC240 (a local file)
            raise LearnerLostError(f"the weights of policy version {snapshot.version} were lost with their file")
        slices, offset = [], 0
        for name, dtype, shape in snapshot.entries:
            slices.append((name, dtype, shape, offset))
            offset += 4 * int(torch.Size(shape).numel())
        source = MappedFile(path=path, size_bytes=offset)
        return StagedWeights(version=snapshot.version, entries=tuple(slices), source=source)

    def close(self) -> None:
        pass


class SilentTransport:
    """Lacks what the worker side needs."""

    def export(self) -> None:
        pass
