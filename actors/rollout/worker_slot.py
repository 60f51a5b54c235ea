"""One slot of the rollout pool: it keeps a worker running, and replaces one that is lost.

starting ──► joining ──────► serving ──► leaving ──► closed
   ▲         (weights loaded    │
   │          and proven)       ▼
   └──── pause, doubled ◄──── lost           waiting: the cluster has no room
         with each loss
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from actors.interfaces import Body, ProbeSequence, RolloutWorkerHandle, WeightSnapshot, WorkerFactory, WorkerPublish
from actors.ray.waits import within
from actors.rollout.condition import BreakableCondition
from maspo_dist.config import ClusterConfig, TrainConfig
from maspo_dist.errors import ActorDiedError, DeadlineError, LearnerLostError, MaspoError, PlacementError
from maspo_dist.flow.failures import RestartBudget
from maspo_dist.types import Event, EventKind, FloatArray, GroupReport

SlotState = Literal["starting", "joining", "serving", "leaving", "lost", "waiting"]

_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Weights:
    """What a worker is to serve, and the logprobs that prove it."""

    snapshot: WeightSnapshot
    probes: Sequence[ProbeSequence]
    expected: Sequence[FloatArray]


@dataclass(slots=True, eq=False)
class PoolState:
    """What the slots share with their pool. `weights` were published last; `lost_weights` died with their learner."""

    config: TrainConfig
    factory: WorkerFactory
    condition: BreakableCondition
    on_event: Callable[[Event], None]
    weights: Weights | None = None
    lost_weights: Weights | None = None


@dataclass(slots=True, eq=False)
class RunningWorker:
    """One started worker and its calls in flight.

    ended    set once: None when the worker leaves, else why it was lost
    serves   until it ends; requests go to it unless it is reserved for one
    load     responses in flight; `calls` are their groups
    """

    index: int
    handle: RolloutWorkerHandle
    config: ClusterConfig
    ended: asyncio.Future[MaspoError | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    serves: bool = False
    version: int = -1
    published: WorkerPublish | None = None
    load: int = 0
    calls: dict[asyncio.Task[tuple[GroupReport, Body]], None] = field(default_factory=dict)
    reserved: bool = False
    groups_at_end: int = 0

    def end(self, cause: MaspoError | None) -> None:
        """Cancels all calls; their callers send them to other workers."""
        if self.ended.done():
            return
        self.ended.set_result(cause)
        self.serves = False
        self.groups_at_end = len(self.calls)
        for call in list(self.calls):
            call.cancel()

    async def publish(self, weights: Weights) -> WorkerPublish:
        """Loads and proves `weights`. Raises DeadlineError, ActorDiedError, WeightSyncError when the proof fails, and
        LearnerLostError when the weights were lost with their learner.
        """
        snapshot = weights.snapshot
        self.published = await within(
            self.config.publish_timeout_s,
            f"{self.handle.name}: publish of policy version {snapshot.version}",
            self.handle.publish(snapshot, weights.probes, weights.expected),
        )
        self.version = snapshot.version
        return self.published

    async def ping(self) -> None:
        """Ends the worker when its engine does not answer."""
        try:
            await within(self.config.heartbeat_timeout_s, f"{self.handle.name}: ping", self.handle.ping())
        except (ActorDiedError, DeadlineError) as error:
            self.end(error)

    async def is_gone_with_its_node(self) -> bool:
        """See the handle's; False when the cluster does not answer."""
        timeout_s = self.config.heartbeat_timeout_s
        try:
            return await within(timeout_s, f"{self.handle.name}: its node", self.handle.is_gone_with_its_node())
        except (ActorDiedError, DeadlineError):
            return False

    async def until_ended(self) -> MaspoError | None:
        """Pings the worker until it has ended; returns why it was lost, or None when it leaves."""
        while not self.ended.done():
            await asyncio.wait([self.ended], timeout=self.config.heartbeat_s)
            if not self.ended.done():
                await self.ping()
        return self.ended.result()


class WorkerSlot:
    """`worker` runs in the slot, while there is one; `closing` is set once the slot is to close."""

    def __init__(self, index: int, pool: PoolState, is_spare: Callable[[], bool]) -> None:
        """`is_spare` says whether the pool can do without the slot when the cluster has no room for its worker."""
        cluster = pool.config.cluster
        self.index = index
        self.name = f"rollout worker {index}"
        self.state: SlotState = "starting"
        self.worker: RunningWorker | None = None
        self.restarts = 0
        self.closing = asyncio.Event()
        self.budget = RestartBudget(
            limit=cluster.max_worker_restarts,
            window_s=cluster.restart_window_s,
            backoff_s=cluster.restart_backoff_s,
            backoff_max_s=cluster.restart_backoff_max_s,
        )
        self._pool = pool
        self._is_spare = is_spare
        #: Runs while the slot is open. Raises why its last worker was lost when no restart is left.
        self.task = asyncio.create_task(self._run(), name=self.name)

    def close(self) -> None:
        """Ends the worker, whose requests go to others, or cancels its start."""
        self.closing.set()
        if self.worker is not None:
            self.worker.end(None)
        else:
            self.task.cancel()

    async def _run(self) -> None:
        pool, clock = self._pool, asyncio.get_running_loop().time
        lost_s: float | None = None
        while not self.closing.is_set():
            if self.state != "waiting":
                self.state = "starting"
            worker: RunningWorker | None = None
            cause: MaspoError | None
            try:
                worker = await self._start()
                async with self._running(worker):
                    await self._join(worker)
                    if not worker.ended.done():
                        self.state, worker.serves = "serving", True
                        pool.condition.notify()
                        if lost_s is not None:
                            self._tell_recovery(clock() - lost_s)
                            lost_s = None
                    cause = await worker.until_ended()
            except (ActorDiedError, DeadlineError) as error:
                cause = error
            except PlacementError as error:
                if pool.weights is None:
                    raise
                if self._is_spare():
                    return
                await self._wait_for_room(error)
                continue
            pool.condition.notify()
            if cause is None or self.closing.is_set():
                return
            now_s = clock()
            lost_s = now_s if lost_s is None else lost_s
            pause_s = self.budget.lost(now_s)
            if pool.weights is None:
                raise cause
            self._tell_loss(cause, 0 if worker is None else worker.groups_at_end, pause_s)
            if pause_s is None:
                raise cause
            await self._pause(pause_s)
            self.restarts += 1

    async def _start(self) -> RunningWorker:
        cluster = self._pool.config.cluster
        handle = await within(
            cluster.start_timeout_s, f"{self.name}: start", self._pool.factory.start_worker(self.index)
        )
        return RunningWorker(self.index, handle, cluster)

    @contextlib.asynccontextmanager
    async def _running(self, worker: RunningWorker) -> AsyncIterator[None]:
        """Ends the worker's process on the way out: a lost worker is killed, any other stopped first."""
        self.worker, self.state = worker, "joining"
        self._pool.condition.notify()
        is_lost = False
        try:
            yield
        except (ActorDiedError, DeadlineError) as error:
            is_lost = True
            worker.end(error)
            raise
        finally:
            worker.end(None)
            is_lost = is_lost or worker.ended.result() is not None
            self.state = "lost" if is_lost else "leaving"
            self.worker = None
            try:
                if not is_lost:
                    # The kill below ends a worker that does not stop.
                    with contextlib.suppress(MaspoError):
                        await within(_STOP_S, f"{self.name}: stop", worker.handle.stop())
            finally:
                worker.handle.kill()

    async def _join(self, worker: RunningWorker) -> None:
        """Brings `worker` to the pool's weights; before the first publish there are none."""
        pool = self._pool
        while (weights := pool.weights) is not None and worker.version != weights.snapshot.version:
            if worker.ended.done():
                return
            try:
                await worker.publish(weights)
            except LearnerLostError:
                pool.lost_weights = weights
                pool.condition.notify()
                await self._until_superseded(weights, worker)

    async def _until_superseded(self, weights: Weights, worker: RunningWorker) -> None:
        await self._pool.condition.until(
            lambda: self._pool.weights is not weights or worker.ended.done(),
            self._pool.config.publish_deadline_s,
            "weights of a new learner group",
        )

    async def _wait_for_room(self, error: PlacementError) -> None:
        if self.state != "waiting":
            self._tell("worker_waits", f"{error}")
        self.state = "waiting"
        await self._pause(self._pool.config.cluster.restart_backoff_max_s)

    async def _pause(self, seconds: float) -> None:
        """Returns early when the slot is to close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()

    def _tell_loss(self, cause: MaspoError, groups: int, pause_s: float | None) -> None:
        then = "the slot is closed" if pause_s is None else f"replaced in {pause_s:g} s"
        message = f"{cause}; its groups in flight ({groups}) go to others; {then}"
        self._tell("worker_lost", message, ("groups", groups))

    def _tell_recovery(self, seconds: float) -> None:
        self._tell("worker_recovered", f"{self.name} serves again after {seconds:.1f} s", ("seconds", seconds))

    def _tell(self, kind: EventKind, message: str, *details: tuple[str, float]) -> None:
        self._pool.on_event(Event(kind=kind, message=message, details=(("worker", self.name), *details)))
