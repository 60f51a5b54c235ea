"""Which failure ends a call on all ranks."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest
from ray.exceptions import ActorDiedError as RayActorDiedError

from actors.learner import group as learner_group
from actors.learner.group import by_rank
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import ActorDiedError, DeadlineError, LearnerLostError, PlacementError, WeightSyncError
from maspo_dist.types import SampleRef, TrainingBatch

PEER_CLOSED = RuntimeError("Connection closed by peer")


class ShardLearner:
    """A rank that keeps its part of each batch."""

    def __init__(self) -> None:
        self.shards: list[object] = []
        self.receive = self.update = self

    async def remote(self, *arguments: object) -> dict[str, float]:
        self.shards += arguments[:1]
        return {}


async def test_neighbouring_ranks_that_share_sequences_get_the_same_shard() -> None:
    learners = [ShardLearner() for _ in range(4)]

    async def make() -> list[ShardLearner]:
        return learners

    group = learner_group.RayLearnerGroup(make, ClusterConfig(), sequence_parallel=2)  # type: ignore[arg-type]
    await group.start()
    refs = [SampleRef(group_id=number, sample=0, reward=1.0, advantage=1.0) for number in range(2)]
    shards = tuple((((ref,),),) for ref in refs)
    batch = TrainingBatch(step=1, shards=shards, loss_tokens=(2,), loss_sequences=(2,))
    bodies = {ref.group_id: f"body {ref.group_id}" for ref in refs}
    await group.update(batch, bodies)  # type: ignore[arg-type]
    wanted = [[f"body {number}", shards[number]] for number in range(2)]
    assert [learner.shards for learner in learners] == [wanted[0], wanted[0], wanted[1], wanted[1]]
    with pytest.raises(ValueError, match="batch is laid out for 2 ranks, there are 4"):
        await group.update(replace(batch, shards=shards[:1]), bodies)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DeadlineError("learner rank 0: start: no answer within 600 s"), "learner rank 0: start: no answer"),
        (PlacementError("cluster.learner_port 29500 is in use"), "cluster.learner_port 29500 is in use"),
        (RuntimeError("CUDA error: out of memory"), "RuntimeError: CUDA error: out of memory"),
    ],
)
async def test_any_failure_of_a_restart_may_be_tried_again_and_names_its_cause(error: Exception, reason: str) -> None:
    failures: list[Exception] = []

    async def make() -> list[ShardLearner]:
        if failures:
            raise failures.pop()
        return []

    group = learner_group.RayLearnerGroup(make, ClusterConfig())  # type: ignore[arg-type]
    await group.start()
    failures.append(error)
    with pytest.raises(LearnerLostError, match=f"^the learner group does not start again: {reason}") as raised:
        await group.restart()
    assert raised.value.__cause__ is error
    await group.restart()


async def test_a_failure_of_the_first_start_is_raised_unchanged() -> None:
    async def make() -> list[ShardLearner]:
        raise PlacementError("cluster.learner_port 29500 is in use")

    with pytest.raises(PlacementError):
        await learner_group.RayLearnerGroup(make, ClusterConfig()).start()  # type: ignore[arg-type]


async def fails(error: Exception, after_s: float = 0) -> None:
    await asyncio.sleep(after_s)
    raise error


async def is_stuck() -> None:
    await asyncio.Event().wait()


async def answers(value: int) -> int:
    return value


@pytest.fixture(autouse=True)
def short_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_group, "_NOTICE_S", 0.2)


async def test_results_come_by_rank() -> None:
    assert await by_rank([answers(7), answers(8)], "probe", 1) == [7, 8]


async def test_the_dead_rank_is_named_though_its_peers_failed_first() -> None:
    calls = [fails(PEER_CLOSED), fails(PEER_CLOSED, 0.02), is_stuck(), fails(RayActorDiedError(), 0.05)]
    with pytest.raises(ActorDiedError, match=r"^learner rank 3: update"):
        await by_rank(calls, "update", 10)


async def test_a_failure_without_a_death_is_raised_unchanged() -> None:
    with pytest.raises(RuntimeError, match="closed by peer"):
        await by_rank([is_stuck(), fails(PEER_CLOSED)], "update", 10)


@pytest.mark.parametrize("error", [WeightSyncError("raised on purpose"), OSError("disk full")], ids=repr)
async def test_an_error_that_no_death_causes_is_raised_at_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_group, "_NOTICE_S", 3600)
    with pytest.raises(type(error)):
        await asyncio.wait_for(by_rank([fails(error), is_stuck()], "save", 10), 5)


async def test_every_silent_rank_is_named() -> None:
    calls: list[Awaitable[object]] = [is_stuck(), answers(1), is_stuck()]
    with pytest.raises(DeadlineError, match=r"^learner rank 0, 2: update: no answer within 0.05 s"):
        await by_rank(calls, "update", 0.05)
