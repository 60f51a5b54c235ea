"""An engine from a module outside the packages serves a pool, weights and all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles.loop import FakeScorer, make_config, make_prompt

from actors.commands.backends import require_backends
from actors.interfaces import Body, WeightUpdate
from actors.rollout.actor import RolloutActor
from actors.rollout.pool import ElasticRolloutPool
from actors.weights.transport import weight_transport
from maspo_dist.config import TrainConfig
from maspo_dist.errors import ConfigError, WeightSyncError
from maspo_dist.runs.rows import Event
from maspo_dist.types import RolloutGroup, RolloutRequest, Sampling

OWN = {
    "rollout": {"backend": "python:doubles.own_engine:CountingEngine", "workers": 2},
    "sync": {"transport": "python:doubles.own_transport:FileTransport"},
}


class LocalWorker(RolloutActor):
    """A rollout actor in this process, as its own handle."""

    name = "rollout worker"
    node_id = "here"
    figures = None

    async def ping(self) -> int:  # type: ignore[override]
        return await self._engine.ping()

    async def is_gone_with_its_node(self) -> bool:
        return False

    def kill(self) -> None:
        """The pool has stopped it."""


class LocalWorkers:
    """Starts workers in this process."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    async def start_worker(self, index: int, place_timeout_s: float) -> LocalWorker:
        worker = LocalWorker(self._config, index, "cpu", FakeScorer(), Path("logs"))
        await worker.start_engine()
        return worker

    async def room(self) -> int:
        return 0

    async def fetch(self, body: Body) -> RolloutGroup:
        assert isinstance(body, RolloutGroup)
        return body

    def store(self, group: RolloutGroup) -> Body:
        return group


def update(config: TrainConfig, version: int, weight: float, learner_weight: float) -> WeightUpdate:
    """Carries `weight` and the logprobs of a learner that holds `learner_weight`."""
    snapshot = weight_transport(config.sync.transport)().export(version, [("weight", torch.tensor([weight]))], 0)
    assert snapshot is not None
    expected = [np.full(4, -learner_weight, np.float32)]
    return WeightUpdate(snapshot=snapshot, probes=[np.arange(5, dtype=np.int32)], expected=expected, max_mean_gap=1e-3)


def request(group_id: int) -> RolloutRequest:
    sampling = Sampling(temperature=1.0, max_response_tokens=100)
    return RolloutRequest(group_id=group_id, prompt=make_prompt(group_id), num_samples=2, sampling=sampling, seed=2)


async def test_an_own_engine_and_an_own_transport_serve_a_pool() -> None:
    config = make_config(**OWN)
    events: list[Event] = []
    pool = ElasticRolloutPool(config, LocalWorkers(config), events.append)
    await pool.start()
    try:
        report = await pool.publish(update(config, 0, 0.5, 0.5))
        assert (report.version, report.max_logprob_gap) == (0, 0.0)
        generating = [asyncio.create_task(pool.generate(request(group))) for group in range(4)]
        await asyncio.sleep(0.02)
        await pool.publish(update(config, 1, 0.75, 0.75))
        for task in generating:
            group_report, group = await task
            assert [version for version, _ in group_report.version_tokens] == [0, 1]
            for rollout in group.rollouts:
                (_, old), (_, new) = rollout.token_versions
                assert rollout.behavior_logprobs.tolist() == [-0.5] * old + [-0.75] * new
        with pytest.raises(WeightSyncError, match="does not hold policy version 2"):
            await pool.publish(update(config, 2, 1.0, 0.75))
    finally:
        await pool.stop()
    assert not events


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "own_engine:MuteEngine",
            "lacks prompt_logprobs, pause, load, load_by_detour, resume, stale_parameters, ping, close: ",
        ),
        ("own_engine:Other", "module doubles.own_engine has no Other"),
        ("no_engine:Other", "importing doubles.no_engine fails"),
        ("own_engine:AS_LOADED", "which is no class"),
    ],
)
def test_an_engine_that_cannot_serve_is_refused_before_anything_starts(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^rollout\.backend is 'python:doubles\.{name}'.*{said}") as error:
        require_backends(make_config(rollout={"backend": f"python:doubles.{name}"}))
    assert "\n" not in str(error.value)


def test_an_engine_that_cannot_sleep_shares_no_device() -> None:
    config = make_config(**OWN, learner={"ranks": 2}, cluster={"layout": "colocated"})
    with pytest.raises(ConfigError, match=r"rollout\.backend .* has no method sleep: add it \(see SleepingEngine\)"):
        require_backends(config)


def test_an_argument_that_vllm_does_not_have_is_refused_where_vllm_is_installed() -> None:
    sentence = r"^rollout\.engine\.gpu_memory_utilisation: vLLM has no such .*; did you mean gpu_memory_utilization\?$"
    with pytest.raises(ConfigError, match=sentence):
        require_backends(make_config(rollout={"engine": {"gpu_memory_utilisation": 0.5}}))
    require_backends(make_config(rollout={"engine": {"gpu_memory_utilization": 0.5, "enable_log_requests": True}}))
    require_backends(make_config(rollout={**OWN["rollout"], "engine": {"beams": 4}}))


def test_own_parts_that_can_serve_are_accepted() -> None:
    require_backends(make_config(**OWN))
    require_backends(make_config())
