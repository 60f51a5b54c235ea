"""Tensors in memory of a device, as another process reads them. On the CPU a file in memory stands for the device."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from torch import Tensor

from actors.interfaces import StagedWeights
from actors.weights import ipc
from actors.weights.ipc import OpenedMemory, SharedTensors
from actors.weights.layout import entry_of
from actors.weights.shared_devices import SharedDevices, of_all_ranks
from maspo_dist.errors import WeightSyncError, WeightTransferError

CPU = torch.device("cpu")


def make_tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(7, 3, generator=generator),
        "b.bias": torch.randn(5, generator=generator).bfloat16(),
        "c.weight": torch.randn(40, 40, generator=generator).bfloat16(),
        "scale": torch.tensor(float(seed)),
    }


def shared_by(shared: SharedTensors, seed: int, version: int = 1) -> StagedWeights:
    tensors = make_tensors(seed)
    return shared.share(version, [entry_of(*item) for item in tensors.items()], tensors.items())


def source_of(weights: StagedWeights) -> SharedDevices:
    assert isinstance(weights.source, SharedDevices)
    return weights.source


def read(weights: StagedWeights) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in OpenedMemory(source_of(weights), CPU).read(weights.entries)}


def require_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def shared() -> Iterator[SharedTensors]:
    shared = SharedTensors(CPU)
    yield shared
    shared.clear()


def test_another_process_reads_what_a_rank_shares(shared: SharedTensors) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as process:
        for version in (1, 2):
            weights = shared_by(shared, seed=version, version=version)
            require_equal(process.submit(read, weights).result(timeout=60), make_tensors(version))
            assert weights.version == version


def test_memory_that_is_no_longer_shared_cannot_be_opened(shared: SharedTensors) -> None:
    earlier = shared_by(shared, seed=1)
    shared.clear()
    with pytest.raises(WeightTransferError, match=r"that a learner rank shares on cpu cannot be opened: .*No such"):
        read(earlier)
    # The next file may get the path of the last.
    shared_by(shared, seed=2)
    with pytest.raises(WeightTransferError, match="cannot be opened"):
        read(earlier)


def test_other_bytes_than_were_shared_are_noticed_after_the_last_tensor(shared: SharedTensors) -> None:
    weights = shared_by(shared, seed=1)
    wrong = replace(source_of(weights), fingerprint=source_of(weights).fingerprint ^ 1)
    tensors = OpenedMemory(wrong, CPU).read(weights.entries)
    for name in make_tensors(1):
        assert next(tensors)[0] == name
    with pytest.raises(WeightTransferError, match="cpu holds other bytes than the learner shared"):
        next(tensors)


def test_a_process_reads_the_memory_of_its_own_device(shared: SharedTensors) -> None:
    weights = shared_by(shared, seed=1)
    source = source_of(weights)
    elsewhere = replace(source.devices[0], device="GPU-of-another-node")
    require_equal(read(replace(weights, source=replace(source, devices=(elsewhere, *source.devices)))), make_tensors(1))
    with pytest.raises(WeightTransferError, match="no learner rank has the device cpu"):
        read(replace(weights, source=replace(source, devices=(elsewhere,))))


def test_ranks_that_hold_different_weights_are_named() -> None:
    ranks = [SharedTensors(CPU) for _ in range(2)]
    same = [shared_by(rank, seed=1) for rank in ranks]
    together = of_all_ranks(same)
    assert source_of(together).devices == source_of(same[0]).devices + source_of(same[1]).devices
    require_equal(read(together), make_tensors(1))
    with pytest.raises(WeightSyncError, match="learner rank 1 holds other weights than learner rank 0"):
        of_all_ranks([same[0], shared_by(ranks[1], seed=2)])
    for rank in ranks:
        rank.clear()


def test_a_device_that_cannot_share_its_memory_is_named(shared: SharedTensors, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, flags: int) -> int:
        raise OSError(f"no file {name}")

    monkeypatch.setattr("os.memfd_create", full)
    with pytest.raises(WeightTransferError, match="cpu cannot share its memory: no file maspo-weights"):
        shared_by(shared, seed=1)


def test_other_tensors_than_were_announced_are_named(shared: SharedTensors) -> None:
    tensors = make_tensors(1)
    entries = [entry_of(*item) for item in tensors.items()]
    with pytest.raises(ValueError, match=r"the learner has \('c.weight'.* where it announced \('a.weight'"):
        shared.share(1, entries, [("c.weight", tensors["c.weight"]), *list(tensors.items())[1:]])


def test_tensors_on_a_gpu_are_shared_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for CUDA: two buffers hold all tensors, as ZeRO's flat buffers do."""
    opened: list[Tensor] = []

    def handle(storage: torch.UntypedStorage) -> bytes:
        opened.append(torch.empty(0, dtype=torch.uint8).set_(storage))
        return pickle.dumps(len(opened) - 1)

    monkeypatch.setattr(ipc, "_cuda_handle", handle)
    monkeypatch.setattr(ipc, "_open", lambda part, device: opened[pickle.loads(part.handle)])
    monkeypatch.setattr(ipc, "device_name", lambda device: "GPU-0")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    flat = [torch.arange(40.0), torch.arange(100.0, 130.0).bfloat16()]
    tensors = {
        "a": flat[0][3:19].view(4, 4),
        "b": flat[1][:12].view(2, 6),
        "c": flat[0][19:40],
        "d": flat[1][13:14],
    }
    shared = SharedTensors(torch.device("cuda", 0))
    weights = shared.share(1, [entry_of(*item) for item in tensors.items()], tensors.items())
    assert [part.size_bytes for part in source_of(weights).devices[0].parts] == [160, 60]
    found = dict(OpenedMemory(source_of(weights), CPU).read(weights.entries))
    require_equal(found, tensors)
    assert [tensor.data_ptr() for tensor in found.values()] == [tensor.data_ptr() for tensor in tensors.values()]
