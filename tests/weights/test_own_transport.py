"""A weight transport from a module outside the packages carries weights from learner ranks to a worker."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from doubles.faulty_actors import DigestEngine
from doubles.loop import FakeEngine, FakeScorer, make_config

from actors.commands.backends import require_backends
from actors.interfaces import StagedWeights, WeightSnapshot, WeightUpdate
from actors.rollout.actor import RolloutActor
from actors.weights.shared_memory import mapped_file
from actors.weights.transport import weight_transport
from maspo_dist.errors import ConfigError, LearnerLostError

CONFIG = make_config(sync={"transport": "python:doubles.own_transport:FileTransport"})


class Worker(RolloutActor):
    """A rollout actor in this process."""

    async def _make_engine(self) -> FakeEngine:
        return FakeEngine()


async def started_worker() -> Worker:
    worker = Worker(CONFIG, 0, "cpu", FakeScorer(), Path("logs"))
    await worker.start_engine()
    return worker


def exported_by_all_ranks(version: int) -> WeightSnapshot:
    """What rank 0 of two exports, its weight 1."""
    first, second = (
        weight_transport(CONFIG.sync.transport)().export(version, DigestEngine(rank).named_weights(), rank)
        for rank in range(2)
    )
    assert first is not None
    assert second is None
    return first


def update(snapshot: WeightSnapshot) -> WeightUpdate:
    """`snapshot` with the logprobs of a learner whose weight is 1."""
    expected = [np.full(4, -1.0, np.float32)]
    return WeightUpdate(snapshot=snapshot, probes=[np.arange(5, dtype=np.int32)], expected=expected, max_mean_gap=1e-3)


async def test_an_own_transport_carries_weights_that_pass_the_proof() -> None:
    worker = await started_worker()
    for version in range(2):
        report = await worker.publish(update(exported_by_all_ranks(version)))
        assert report.max_logprob_gap == 0.0
    await worker.stop()


async def test_weights_that_an_own_transport_lost_are_lost_with_the_learner() -> None:
    worker = await started_worker()
    snapshot = exported_by_all_ranks(3)
    Path(snapshot.payload[0]).unlink()  # noqa: ASYNC240 (a local file)
    with pytest.raises(LearnerLostError, match="version 3 were lost"):
        await worker.publish(update(snapshot))
    await worker.stop()


def test_a_transport_without_its_worker_side_is_refused_before_anything_starts() -> None:
    name = "python:doubles.own_transport:SilentTransport"
    with pytest.raises(ConfigError, match=re.escape(f"sync.transport is '{name}', which lacks receive, close: ")):
        require_backends(make_config(sync={"transport": name}))


def test_an_engine_refuses_weights_that_it_cannot_reach() -> None:
    weights = StagedWeights(version=0, entries=(), source=("group", "publish-1"))
    with pytest.raises(ConfigError, match=r"sync\.transport leaves weights as tuple, .* reads a MappedFile only"):
        mapped_file(weights)
