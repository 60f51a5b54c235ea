"""Under any failures in any order, every prompt ends once, no token is trained too old, and every step comes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from doubles.environments import ScriptedSession
from play import failure_of, failures_of

import actors.controller.open_groups
import actors.rollout.pool
from actors.controller.open_groups import OpenGroups
from actors.interfaces import WeightUpdate
from actors.rollout.broadcasts import Broadcasts
from actors.rollout.direct import Outcome
from actors.rollout.ipc import IpcPublisher
from actors.rollout.worker_slot import PoolState, RunningWorker, WorkerSlot
from maspo_dist.flow.admission import open_slots
from maspo_dist.types import FinishedGroup, RolloutGroup

_RESTORE = OpenGroups.restore


def test_a_hundred_stories_end_well() -> None:
    """`make stories` plays ten thousand."""
    assert failures_of(range(100)) == []


def _first_failure(limit: int) -> str | None:
    return next((failure for seed in range(limit) if (failure := failure_of(seed))), None)


@pytest.fixture
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _one_batch_more(outstanding: int, per_step: int, age: int, over_sampling: float | None) -> int:
    return open_slots(outstanding, per_step, age + 1, over_sampling)


def _forgets_pending(self: OpenGroups, state: object, finished: object, store: object) -> None:
    self._next_group = state.next_group  # type: ignore[attr-defined]


async def _joins_without_weights(self: WorkerSlot, worker: object) -> None:
    worker.version = 0  # type: ignore[attr-defined]


_publish, _share, _loaded = Broadcasts.publish, IpcPublisher.publish, IpcPublisher._loaded


async def _forgets_survivors(
    self: Broadcasts, workers: Sequence[RunningWorker], update: WeightUpdate
) -> tuple[list[Outcome], list[RunningWorker]]:
    outcomes, left = await _publish(self, workers, update)
    return outcomes, [worker for worker in left if worker.version < 0]


async def _broadcasts_first_weights(
    self: Broadcasts, workers: Sequence[RunningWorker], update: WeightUpdate
) -> tuple[list[Outcome], list[RunningWorker]]:
    for worker in workers:
        worker.version = max(worker.version, 0)
    return await _publish(self, workers, update)


class _NeverNone:
    """A group that cannot be forgotten."""

    def __get__(self, broadcasts: Broadcasts, _: object) -> object:
        return broadcasts.__dict__.get("_group")

    def __set__(self, broadcasts: Broadcasts, group: object) -> None:
        if group is not None:
            broadcasts.__dict__["_group"] = group


async def _unshares_at_once(self: IpcPublisher, *arguments: Any) -> list[Outcome]:
    loading = asyncio.ensure_future(_loaded(self, *arguments))
    await self._learners.unshare()
    return await loading


async def _shares_with_all(
    self: IpcPublisher, workers: Sequence[RunningWorker], update: WeightUpdate
) -> tuple[list[Outcome], list[RunningWorker]]:
    for worker in workers:
        worker.version = max(worker.version, 0)
    return await _share(self, workers, update)


def _forgets_conversations(
    self: OpenGroups, state: object, finished: Sequence[FinishedGroup[RolloutGroup]], store: object
) -> None:
    silent = [replace(group.scored.report, conversations=(), heard_tokens=np.zeros(0, np.int32)) for group in finished]
    groups = [
        replace(group, scored=replace(group.scored, report=report))
        for group, report in zip(finished, silent, strict=True)
    ]
    _RESTORE(self, state, groups, store)  # type: ignore[arg-type]


async def _at_once(*_: object) -> None:
    """In place of a wait."""


async def _a_moment_later(*_: object) -> None:
    """In place of a wait that is repeated until something has happened."""
    await asyncio.sleep(0.1)


async def _leaves_its_environment(self: ScriptedSession) -> None:
    self.is_closed |= not (task := asyncio.current_task()) or not task.cancelling()


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (
            lambda patch: patch.setattr(actors.controller.open_groups, "open_slots", _one_batch_more),
            "old|sampled|in flight",
        ),
        (lambda patch: patch.setattr(OpenGroups, "restore", _forgets_pending), "lost"),
        (lambda patch: patch.setattr(WorkerSlot, "_join", _joins_without_weights), "serves without weights"),
        (lambda patch: patch.setattr(Broadcasts, "publish", _forgets_survivors), "other weights than published"),
        (lambda patch: patch.setattr(Broadcasts, "publish", _broadcasts_first_weights), "its first are broadcast"),
        (lambda patch: patch.setattr(Broadcasts, "_group", _NeverNone(), raising=False), "is used again after"),
        (lambda patch: patch.setattr(IpcPublisher, "_loaded", _unshares_at_once), "memory that is not shared"),
        (lambda patch: patch.setattr(IpcPublisher, "publish", _shares_with_all), "its first weights in the learners"),
        (
            lambda patch: patch.setattr(OpenGroups, "restore", _forgets_conversations),
            "heard is lost|conversations are lost|micro-batch has|faults show",
        ),
        (lambda patch: patch.setattr(ScriptedSession, "close", _leaves_its_environment), "outlives its conversation"),
        (lambda patch: patch.setattr(RunningWorker, "sleep", _at_once), "take the devices of"),
        (
            lambda patch: patch.setattr(PoolState, "engines_turn", _a_moment_later),
            "hold its device|take the devices of",
        ),
        (lambda patch: patch.setattr(actors.rollout.pool, "until_settled", _at_once), "hold|take the devices of"),
    ],
    ids=[
        "one batch too many is admitted",
        "a resumed run forgets open groups",
        "a new worker serves unproven",
        "engines serve after a failed broadcast",
        "a new worker gets its first weights by a broadcast",
        "a group is used again after a failure",
        "memory is freed while engines read it",
        "a new worker reads its first weights in the learners' memory",
        "a resumed run forgets conversations",
        "a cancelled conversation leaves its environment",
        "an engine does not sleep",
        "a lost engine starts in the turn of the learners",
        "learners do not wait for an engine that starts",
    ],
)
def test_a_planted_bug_is_found_within_a_hundred_stories(
    plant: Callable[[pytest.MonkeyPatch], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _first_failure(24) is None
    plant(monkeypatch)
    failure = _first_failure(100)
    assert failure is not None
    assert re.search(said, failure), failure
