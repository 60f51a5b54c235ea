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
from actors.learner.weights import LearnerWeights
from actors.weights.fingerprint import ByteArray


def rank_0(puts: list[list[np.ndarray]]) -> LearnerWeights:
    def put(parts: Sequence[ByteArray]) -> list[np.ndarray]:
        puts.append([part.copy() for part in parts])
        return puts[-1]

    return LearnerWeights(0, torch.device("cpu"), "127.0.0.1", put=put)


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
