"""Publishes by broadcast: learner rank 0 sends the weights to all engines at once.

    pool      publishes to each worker ──► engines pause, begin ──► receive ──► resume, prove
    learner   waits until all engines have begun ──► sends ──► waits until all have the bytes ──► keeps a copy

An engine that dies or hangs does not fail the publish: the broadcast ends within its deadlines, engines that do not
answer then are lost, and the others get the same weights through the object store. The next broadcast has another
group.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from actors.interfaces import (
    AnnouncedWeights,
    Broadcast,
    BroadcastGroup,
    PublishReport,
    SendReport,
    StagedWeights,
    WeightKeeper,
    WeightUpdate,
)
from actors.ray.waits import cancel_all
from actors.rollout.direct import Failures, Outcome, outcome_of, without_failed
from actors.rollout.worker_slot import RunningWorker
from maspo_dist.config import TrainConfig
from maspo_dist.errors import DeadlineError, LearnerLostError
from maspo_dist.runs.rows import Event

_Calls = Mapping[RunningWorker, "asyncio.Task[PublishReport | None]"]


class WeightSender(WeightKeeper, Protocol):
    async def send(self, version: int, broadcast: Broadcast) -> SendReport:
        """Sends the announced weights once all members have begun; returns by the deadlines of the group."""

    async def abandon(self, group: BroadcastGroup) -> None:
        """Ends a broadcast that runs; all members notice it within a moment. The group is never used again."""


class Broadcasts:
    """Implements `direct.DirectPublisher`, one broadcast at a time."""

    def __init__(self, config: TrainConfig, sender: WeightSender, on_event: Callable[[Event], None]) -> None:
        self._deadline_s = config.cluster.broadcast_deadline_s
        self._processes = config.rollout.tensor_parallel
        self._sender = sender
        self._failures = Failures(config, "broadcast_failed", on_event)
        self._group: BroadcastGroup | None = None
        self._members: list[RunningWorker] = []
        self._groups_so_far = 0
        self._number = 0

    @property
    def keeper(self) -> WeightKeeper:
        return self._sender

    async def publish(
        self, workers: Sequence[RunningWorker], update: WeightUpdate
    ) -> tuple[list[Outcome], list[RunningWorker]]:
        # An engine loads its first weights three times (see `RolloutEngine.load_by_detour`), which a broadcast cannot
        # serve. Such an engine gets the stored copy.
        members = [worker for worker in workers if worker.version >= 0]
        others = [worker for worker in workers if worker.version < 0]
        if not members or self._failures.is_given_up:
            await self._sender.store(update.version)
            return [], list(workers)
        calls = self._begin(members, update)
        group = self._group
        assert group is not None
        started_s = asyncio.get_running_loop().time()
        try:
            report = await self._send(calls, update.version, Broadcast(group=group, number=self._number, first_rank=0))
        except BaseException:
            self._group = None
            await cancel_all(calls.values())
            raise
        sent_s = asyncio.get_running_loop().time() - started_s
        await self._settle(calls, report.missing)
        keeping = asyncio.ensure_future(self._sender.keep(update.version))
        try:
            results = await asyncio.gather(*calls.values(), return_exceptions=True)
            await keeping
        finally:
            await cancel_all([keeping])
        outcomes = [outcome_of(worker, result, sent_s) for worker, result in zip(calls, results, strict=True)]
        if report.failure is not None:
            self._group = None
        self._failures.note(report.failure, update.version, are_lost=None in outcomes)
        done, failed = without_failed(members, outcomes)
        return done, [*others, *failed]

    def _begin(self, members: list[RunningWorker], update: WeightUpdate) -> _Calls:
        """Starts a publish on every engine. Makes a new group first if the members or the learner's address have
        changed, or the last broadcast failed.
        """
        weights = update.snapshot
        assert isinstance(weights, AnnouncedWeights)
        group, place = self._group, (weights.address, weights.port)
        if group is None or members != self._members or place != (group.address, group.port):
            self._groups_so_far += 1
            self._group = group = BroadcastGroup(
                address=weights.address,
                port=weights.port,
                name=f"publish-{self._groups_so_far}",
                engine_ranks=len(members) * self._processes,
                deadline_s=self._deadline_s,
            )
            self._members, self._number = members, 0
        self._number += 1
        entries = tuple((*entry, 0) for entry in weights.entries)
        calls = {}
        for index, worker in enumerate(members):
            source = Broadcast(group=group, number=self._number, first_rank=1 + index * self._processes)
            staged = StagedWeights(version=update.version, entries=entries, source=source)
            calls[worker] = asyncio.ensure_future(worker.try_publish(update, staged))
        return calls

    async def _send(self, calls: _Calls, version: int, broadcast: Broadcast) -> SendReport:
        """How the broadcast ended. It is abandoned once a worker has failed, since no other can then finish."""
        group = broadcast.group
        sending = asyncio.ensure_future(self._sender.send(version, broadcast))
        waiting: set[asyncio.Future[object]] = {sending, *calls.values()}  # type: ignore[arg-type]
        has_failed = False
        try:
            while not has_failed and not sending.done():
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                has_failed = not sending.done() and any(call.exception() or call.result() is None for call in ended)
            if not sending.done():
                await self._sender.abandon(group)
                await asyncio.wait([sending])
            return sending.result()
        except LearnerLostError:
            # Rank 0 may be alive: it waits for the lost rank, and the engines wait for rank 0.
            with contextlib.suppress(LearnerLostError):
                await self._sender.abandon(group)
            # Each call has its deadline, and pings find an engine that hangs.
            await asyncio.wait(calls.values())
            raise
        finally:
            await cancel_all([sending])

    async def _settle(self, calls: _Calls, missing: Sequence[int]) -> None:
        """Waits until the workers of `missing` ranks have left the broadcast; a worker that does not leave is lost."""
        grace_s = self._deadline_s / 2
        of_missing = {(rank - 1) // self._processes for rank in missing}
        late = [worker for index, (worker, call) in enumerate(calls.items()) if index in of_missing and not call.done()]
        if late:
            await asyncio.wait([calls[worker] for worker in late], timeout=grace_s)
        for worker in late:
            if not calls[worker].done():
                what = f"{worker.handle.name}: broadcast of weights"
                worker.end(DeadlineError(f"{what}: no answer within {grace_s:g} s after the broadcast had failed"))
                calls[worker].cancel()
