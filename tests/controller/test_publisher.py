"""What a publish is measured with: responses of the last batch, and the mean gap at the start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from doubles.loop import FakeLearners, FakePool, make_config, make_prompt

from actors.bench.doubles import make_rollout
from actors.controller.publisher import Publisher
from actors.interfaces import PublishReport, WeightUpdate
from actors.weights.probes import probe_tokens
from maspo_dist.types import IntArray, RolloutGroup


class Pool(FakePool):
    """Keeps what is published; `mean` is the gap that it measures."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 0.03
        self.updates: list[WeightUpdate] = []

    async def publish(self, update: WeightUpdate) -> PublishReport:
        self.updates.append(update)
        return PublishReport(
            version=update.version, mean_logprob_gap=self.mean, max_logprob_gap=1.0, transfer_s=0.0, pause_s=0.0
        )


PROMPTS: Sequence[IntArray] = (np.arange(4, dtype=np.int32),)


def make_publisher(pool: FakePool, learners: FakeLearners, **sections: object) -> Publisher:
    config = make_config(model={"dtype": "bfloat16"}, **sections)
    return Publisher(config=config, pool=pool, learners=learners, prompts=PROMPTS, tokens=12)


def group(number: int, *lengths: int) -> RolloutGroup:
    """A group of prompt pNUMBER, which has 3 tokens, and of responses of `lengths`."""
    rollouts = tuple(make_rollout(length, 0) for length in lengths)
    return RolloutGroup(group_id=number, prompt=make_prompt(number), rollouts=rollouts)


async def test_the_mean_at_version_0_bounds_the_mean_of_every_later_version() -> None:
    pool, learners = Pool(), FakeLearners()
    publisher = make_publisher(pool, learners)
    await publisher.publish(0)
    pool.mean = 0.05
    for learners.version in (1, 2):
        await publisher.publish(learners.version)
    assert [update.max_mean_gap for update in pool.updates] == [0.2, 0.06, 0.06]
    assert publisher.start_gap == 0.03
    # The learners were lost and start again from the model's folder.
    learners.version = 0
    await publisher.publish(0)
    assert publisher.start_gap == 0.05


async def test_a_resumed_run_keeps_the_mean_of_its_start() -> None:
    pool, learners = Pool(), FakeLearners()
    publisher = make_publisher(pool, learners)
    publisher.start_gap, learners.version = 0.04, 5
    await publisher.publish(5)
    assert (pool.updates[0].max_mean_gap, publisher.start_gap) == (0.08, 0.04)


async def test_probes_are_prompts_at_first_and_then_responses_of_every_group() -> None:
    pool, learners = Pool(), FakeLearners()
    publisher = make_publisher(pool, learners)
    await publisher.publish(0)
    pool.lost_bodies = {9}
    await publisher.publish(0, [group(0, 2, 9), group(9, 1), group(1, 1, 8)])
    await publisher.publish(0, [group(9, 1)])
    first, second, third = pool.updates
    assert first.probes is third.probes is PROMPTS
    # 5 ids of group 0, 4 of group 1, and 3 more of group 0: twelve in all.
    assert [probe.tolist() for probe in second.probes] == [[1, 2, 3, 5, 5], [2, 2, 3, 5], [1, 2, 3]]
    assert [expected.size for expected in second.expected] == [4, 3, 2]


def test_a_gpu_compares_more_tokens_than_a_cpu_and_bfloat16_more_than_float32() -> None:
    assert [probe_tokens(None, "cuda", dtype) for dtype in ("bfloat16", "float32")] == [4096, 4096]
    assert [probe_tokens(None, "cpu", dtype) for dtype in ("bfloat16", "float32")] == [256, 128]
    assert probe_tokens(64, "cuda", "bfloat16") == 64
