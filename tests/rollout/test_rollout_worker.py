"""A worker serves only weights that it has proven to hold."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles.loop import FakeEngine, FakeScorer, make_config, make_prompt, make_snapshot

from actors.bench.doubles import Bucket
from actors.interfaces import WeightSnapshot, WeightUpdate
from actors.rollout.actor import RolloutActor
from maspo_dist.errors import WeightSyncError
from maspo_dist.types import RolloutRequest, Sampling


class Worker(RolloutActor):
    """A rollout actor in this process."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(make_config(), 0, "cpu", FakeScorer(), Path("logs"))
        self._fake = engine

    async def _make_engine(self) -> FakeEngine:
        return self._fake


async def make_worker(engine: FakeEngine) -> Worker:
    worker = Worker(engine)
    await worker.start_engine()
    return worker


def request(seed: int = 10) -> RolloutRequest:
    sampling = Sampling(temperature=1.0, max_response_tokens=8)
    return RolloutRequest(group_id=7, prompt=make_prompt(1), num_samples=3, sampling=sampling, seed=seed)


def update(snapshot: WeightSnapshot, weight: float) -> WeightUpdate:
    """`snapshot` with the logprobs of a learner that holds `weight`."""
    expected = [np.full(4, -weight, np.float32)]
    return WeightUpdate(snapshot=snapshot, probes=[np.arange(5, dtype=np.int32)], expected=expected, max_mean_gap=1e-3)


async def publish(worker: Worker, version: int, weight: float) -> None:
    report = await worker.publish(update(make_snapshot(version, weight), weight))
    assert (report.version, report.max_logprob_gap) == (version, 0.0)


async def test_a_group_carries_its_responses_verdicts_and_versions() -> None:
    worker = await make_worker(FakeEngine())
    await publish(worker, 3, 0.25)
    report, group = await worker.generate(request())
    assert [rollout.text for rollout in group.rollouts] == ["10", "11", "12"]
    assert [verdict.reward for verdict in report.verdicts] == [1.0, 0.0, 1.0]
    assert report.response_tokens.tolist() == [rollout.response_ids.size for rollout in group.rollouts]
    assert report.version_tokens == ((3, int(report.response_tokens.sum())),)
    assert report.oldest_version.tolist() == [3, 3, 3]


async def test_nothing_is_served_before_the_first_proof() -> None:
    worker = await make_worker(FakeEngine())
    serving = asyncio.create_task(worker.generate(request()))
    await asyncio.sleep(0.01)
    assert not serving.done()
    await publish(worker, 0, 0.5)
    report, _ = await serving
    assert report.group_id == 7


async def test_an_engine_that_kept_old_weights_is_refused_and_serves_nothing() -> None:
    engine = FakeEngine()
    worker = await make_worker(engine)
    await publish(worker, 0, 0.5)
    engine.stale = True
    with pytest.raises(WeightSyncError, match=r"rollout worker 0 does not hold policy version 1: .* by 0\.25") as error:
        await publish(worker, 1, 0.75)
    assert "sync.max_mean_logprob_gap is 0.001" in str(error.value)
    serving = asyncio.create_task(worker.generate(request()))
    await asyncio.sleep(0.01)
    assert not serving.done()
    engine.stale = False
    await publish(worker, 1, 0.75)
    await serving


async def test_stale_parameters_are_named_even_where_logprobs_agree() -> None:
    engine = FakeEngine()
    worker = await make_worker(engine)
    await publish(worker, 0, 0.5)
    engine.stale_names = [f"layers.{layer}.weight" for layer in range(6)]
    with pytest.raises(WeightSyncError, match="rollout worker 0 does not hold policy version 1: it computes") as error:
        await publish(worker, 1, 0.75)
    assert "layers.3.weight and 2 other parameters; logprobs differ from the learner's by 0 on" in str(error.value)


async def test_parameters_that_the_first_publish_does_not_reach_are_named() -> None:
    engine = FakeEngine()
    worker = await make_worker(engine)
    engine.unreached = ["layers.1.bias"]
    for _ in range(2):
        with pytest.raises(WeightSyncError, match=r"version 0: a publish does not reach layers\.1\.bias$"):
            await publish(worker, 0, 0.5)
    engine.unreached = []
    await publish(worker, 0, 0.5)
    engine.unreached = ["only the first publish takes the detour"]
    await publish(worker, 1, 0.75)


async def test_a_worker_loads_what_another_worker_of_its_node_received() -> None:
    first, second = await make_worker(FakeEngine()), await make_worker(FakeEngine())
    for version, weight in enumerate((0.5, 0.75)):
        good = update(make_snapshot(version, weight), weight)
        staged = await first.stage(good)
        # The second worker could not receive this version itself.
        unreadable = replace(good, snapshot=replace(good.snapshot, payload=()))
        for worker in (second, first):
            assert (await worker.publish(unreadable, staged)).version == version
    await first.stop()
    # The memory went with the first worker: the second worker receives the weights itself.
    last = update(make_snapshot(2, 1.0), 1.0)
    assert (await second.publish(last, staged)).max_logprob_gap == 0.0
    await second.stop()


async def test_bytes_that_changed_on_the_way_are_noticed_before_they_are_loaded() -> None:
    engine = FakeEngine()
    worker = await make_worker(engine)
    snapshot = make_snapshot(0, 0.5)
    damaged = snapshot.payload[0].parts[0].copy()
    damaged[17] ^= 1
    snapshot = replace(snapshot, payload=(Bucket([damaged]),))
    with pytest.raises(WeightSyncError, match="rollout worker 0 received other bytes than were exported"):
        await worker.publish(update(snapshot, 0.5))
    assert engine.version == -1


async def test_stopping_ends_the_engine() -> None:
    engine = FakeEngine()
    worker = await make_worker(engine)
    await worker.stop()
    assert engine.closed
