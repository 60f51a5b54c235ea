"""What learner rank 0 keeps and stores for engines that did not get the weights straight."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.interfaces import WeightSnapshot
from actors.learner.weights import LearnerWeights, host_memory
from actors.weights.fingerprint import ByteArray
from actors.weights.layout import entry_of


def rank_0(puts: list[list[np.ndarray]]) -> LearnerWeights:
    """It has announced a float32[4] named a."""

    def put(parts: Sequence[ByteArray]) -> list[np.ndarray]:
        puts.append([part.copy() for part in parts])
        return puts[-1]

    weights = LearnerWeights(0, torch.device("cpu"), "127.0.0.1", put=put)
    weights.announce(0, [("a", "float32", (4,))])
    return weights


def values(snapshot: WeightSnapshot | None) -> list[float]:
    assert snapshot is not None
    return [float(part.view(np.float32)[0]) for bucket in snapshot.payload for part in bucket]


def test_kept_weights_are_stored_when_they_are_asked_for_and_do_not_change_with_the_learner() -> None:
    puts: list[list[np.ndarray]] = []
    weights, tensor = rank_0(puts), torch.full((4,), 1.0)
    weights.keep(3, [("a", tensor)])
    tensor.fill_(2.0)
    assert puts == []
    assert values(weights.stored(3)) == [1.0]
    assert values(weights.stored(3)) == [1.0]
    assert len(puts) == 1
    assert weights.stored(2) is None


def test_weights_that_are_stored_at_once_are_copied_once_and_replace_what_was_kept() -> None:
    puts: list[list[np.ndarray]] = []
    weights = rank_0(puts)
    weights.keep(1, [("a", torch.full((4,), 1.0))])
    [copy] = [weakref.ref(tensor) for tensor in weights._kept.values()]
    weights.store(2, [("a", torch.full((4,), 2.0))])
    gc.collect()
    assert copy() is None, "the copy of earlier weights is still in memory"
    assert len(puts) == 1
    assert values(weights.stored(2)) == [2.0]
    assert len(puts) == 1
    assert weights.stored(1) is None
    weights.keep(4, [("a", torch.full((4,), 4.0))])
    assert values(weights.stored(4)) == [4.0]


def test_a_store_that_fails_leaves_nothing_to_be_loaded() -> None:
    weights = rank_0([])
    weights.keep(1, [("a", torch.full((4,), 1.0))])

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield "a", torch.full((4,), 2.0)
        raise RuntimeError("rank 1 is gone")

    with pytest.raises(RuntimeError, match="rank 1"):
        weights.store(2, tensors())
    assert weights.stored(1) is None
    assert weights.stored(2) is None


def test_a_kept_copy_that_fails_cannot_be_loaded() -> None:
    weights = rank_0([])
    weights.keep(1, [("a", torch.full((4,), 1.0))])
    with pytest.raises(ValueError, match="where it announced"):
        weights.keep(2, [("a", torch.full((1,), 2.0))])
    assert weights.stored(1) is None
    assert weights.stored(2) is None


def test_tensors_share_pieces_of_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.learner.weights._BLOCK_BYTES", 256)
    tensors = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.arange(5).bfloat16(),
        "c": torch.tensor(7.0),
        "large": torch.arange(100.0),
        "d": torch.arange(3.0),
    }
    memory = host_memory([entry_of(*item) for item in tensors.items()], is_pinned=False)
    for name, tensor in tensors.items():
        memory[name].copy_(tensor)
    assert all(torch.equal(memory[name], tensor) for name, tensor in tensors.items())
    pieces = [memory[name].untyped_storage().data_ptr() for name in tensors]
    assert pieces[0] == pieces[1] == pieces[2]
    assert len(set(pieces)) == 3
