"""Publishes by IPC, where `cluster.layout` is colocated: engines read the weights in the memory of the learners.

    learners  share their weights ──► engines load and prove them ──► learners free what only the sharing needs
                                  ──► learners keep a copy

An engine that cannot read the memory does not fail the publish: it gets the same weights through the object store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from actors.interfaces import StagedWeights, WeightKeeper, WeightUpdate
from actors.ray.waits import cancel_all
from actors.rollout.direct import Failures, Outcome, outcome_of, without_failed
from actors.rollout.worker_slot import RunningWorker
from maspo_dist.config import TrainConfig
from maspo_dist.errors import WeightTransferError
from maspo_dist.runs.rows import Event


class WeightSharer(WeightKeeper, Protocol):
    async def share(self, version: int) -> StagedWeights:
        """The announced weights as a source of SharedDevices, which engines may read until `unshare`.

        Raises WeightTransferError when a device cannot share its memory; call `unshare` then too.
        """

    async def unshare(self) -> None:
        """Frees what only `share` needs. No engine may read it any more."""


class IpcPublisher:
    """Implements `direct.DirectPublisher`.

    A worker's first weights come through the object store: its engine loads them three times, see
    `RolloutEngine.load_by_detour`, and may open shared memory once.
    """

    def __init__(self, config: TrainConfig, learners: WeightSharer, on_event: Callable[[Event], None]) -> None:
        self._learners = learners
        self._failures = Failures(config, "ipc_failed", on_event)

    @property
    def keeper(self) -> WeightKeeper:
        return self._learners

    async def publish(
        self, workers: Sequence[RunningWorker], update: WeightUpdate
    ) -> tuple[list[Outcome], list[RunningWorker]]:
        version, clock = update.version, asyncio.get_running_loop().time
        readers = [worker for worker in workers if worker.version >= 0]
        others = [worker for worker in workers if worker.version < 0]
        if not readers or self._failures.is_given_up:
            await self._learners.store(version)
            return [], list(workers)
        started_s = clock()
        try:
            staged = await self._learners.share(version)
        except WeightTransferError as error:
            self._failures.note(str(error), version, are_lost=False)
            await self._learners.unshare()
            await self._learners.store(version)
            return [], list(workers)
        shared_s = clock() - started_s
        outcomes = await self._loaded(readers, update, staged, shared_s)
        await self._learners.unshare()
        done, failed = without_failed(readers, outcomes)
        reasons = [str(outcome) for outcome in outcomes if isinstance(outcome, WeightTransferError)]
        self._failures.note(reasons[0] if reasons else None, version, are_lost=None in outcomes)
        return done, [*others, *failed]

    async def _loaded(
        self, readers: Sequence[RunningWorker], update: WeightUpdate, staged: StagedWeights, shared_s: float
    ) -> list[Outcome]:
        """What each reader reports or raises, once all have ended and the learners keep a copy."""
        calls = [asyncio.ensure_future(reader.try_publish(update, staged)) for reader in readers]
        keeping = asyncio.ensure_future(self._learners.keep(update.version))
        try:
            results = await asyncio.gather(*calls, return_exceptions=True)
            await keeping
        finally:
            await cancel_all([*calls, keeping])
        return [outcome_of(reader, result, shared_s) for reader, result in zip(readers, results, strict=True)]
