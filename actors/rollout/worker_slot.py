"""One slot of the rollout pool: it keeps a worker running, and replaces a lost worker.

starting ──► joining ──────► serving ──► leaving ──► closed
   ▲         (weights loaded    │           │
   │          and proven)       ▼           │
   ├──── pause, doubled ◄──── lost          │    waiting: the cluster has no room
   │     with each loss                     │
   └──── its node leaves the cluster ◄──────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace

from actors.interfaces import (
    Body,
    PublishReport,
    RolloutWorkerHandle,
    StagedWeights,
    WeightKeeper,
    WeightSnapshot,
    WeightUpdate,
    WorkerFactory,
)
from actors.ray.errors import reason_of
from actors.ray.waits import BreakableCondition, within
from maspo_dist.config import ClusterConfig, TrainConfig
from maspo_dist.errors import (
    ActorDiedError,
    DeadlineError,
    LearnerLostError,
    MaspoError,
    PlacementError,
    WeightTransferError,
)
from maspo_dist.flow.failures import RestartBudget
from maspo_dist.runs.live import WorkerState
from maspo_dist.runs.rows import Event, EventKind
from maspo_dist.types import GroupReport

logger = logging.getLogger(__name__)
_STOP_S = 30.0


@dataclass(slots=True, eq=False)
class PoolState:
    """What the slots share with their pool.

    keeper         stores announced weights; None where weights are only exported
    weights        published last
    lost_weights   died with their learner
    kept_weights   announced, and the learner has a copy of them
    is_started     the first workers have run: from then on a lost worker is replaced
    sleeps         the learners have the devices of the engines: no engine starts or loads weights
    """

    config: TrainConfig
    factory: WorkerFactory
    condition: BreakableCondition
    on_event: Callable[[Event], None]
    keeper: WeightKeeper | None = None
    weights: WeightUpdate | None = None
    lost_weights: WeightUpdate | None = None
    kept_weights: WeightUpdate | None = None
    is_started: bool = False
    sleeps: bool = False

    async def engines_turn(self, is_given_up: Callable[[], bool]) -> None:
        """Returns when engines may use their devices, or when `is_given_up`."""
        await self.condition.until(
            lambda: not self.sleeps or is_given_up(), self.config.publish_deadline_s, "the turn of the engines"
        )

    async def stored(
        self, update: WeightUpdate, is_given_up: Callable[[], bool] = lambda: False
    ) -> WeightUpdate | None:
        """`update` with its weights in the object store, once the learner can put them there.

        None when later weights have replaced them, or when `is_given_up`. Raises LearnerLostError, also when a new
        learner has replaced the learner that kept them.
        """
        if isinstance(update.snapshot, WeightSnapshot):
            return update
        assert self.keeper is not None
        await self.condition.until(
            lambda: self.kept_weights is update or self.weights is not update or is_given_up(),
            self.config.publish_deadline_s,
            f"a copy of policy version {update.version}",
        )
        if self.kept_weights is not update or is_given_up():
            return None
        snapshot = await self.keeper.stored(update.version)
        if snapshot is None and self.weights is update:
            what = f"the weights of policy version {update.version}"
            raise LearnerLostError(f"{what} were lost with the learner that kept them")
        return None if snapshot is None else replace(update, snapshot=snapshot)


@dataclass(slots=True, eq=False)
class RunningWorker:
    """One started worker and its calls in flight.

    ended      set once: why the worker was lost, or None if it leaves, on request or because its node leaves
    serves     requests go to the worker, unless it is `reserved` for a single request
    is_whole   false after a transfer that failed: the engine mixes two versions, and is paused until its next publish
    calls      one call per group in flight; `load` counts their responses
    tokens     sampled so far, as of the last ping; `last_token_s` is the event loop time of the last ping that saw more
    """

    index: int
    handle: RolloutWorkerHandle
    config: ClusterConfig
    ended: asyncio.Future[MaspoError | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    serves: bool = False
    is_whole: bool = True
    version: int = -1
    published: PublishReport | None = None
    load: int = 0
    calls: dict[asyncio.Task[tuple[GroupReport, Body]], None] = field(default_factory=dict)
    reserved: bool = False
    tokens: int = 0
    last_token_s: float = 0.0
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

    async def stage(self, update: WeightUpdate) -> StagedWeights | None:
        """Receives the weights for all workers of its node. Returns None after a failure: then each worker receives the
        weights itself.
        """
        what = f"{self.handle.name}: receipt of policy version {update.version}"
        try:
            return await within(self.config.publish_timeout_s, what, self.handle.stage(update))
        except Exception as error:
            # If something is wrong with the weights, each worker raises it when it receives them itself.
            logger.warning("%s: %s", what, error)
            if isinstance(error, ActorDiedError | DeadlineError):
                self.end(error)
        return None

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None = None) -> PublishReport:
        """Loads and proves the weights. Raises DeadlineError, ActorDiedError, WeightSyncError when the proof fails,
        WeightTransferError, and LearnerLostError when the weights were lost with their learner.
        """
        what = f"{self.handle.name}: publish of policy version {update.version}"
        try:
            self.published = await within(self.config.publish_timeout_s, what, self.handle.publish(update, staged))
        except WeightTransferError:
            self.is_whole = False
            raise
        self.version, self.is_whole = update.version, True
        return self.published

    async def try_publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport | None:
        """As `publish`; ends the worker when it is lost, and returns None when it was lost or left."""
        if self.ended.done():
            return None
        try:
            return await self.publish(update, staged)
        except Exception as error:
            if isinstance(error, ActorDiedError | DeadlineError):
                self.end(error)
            if not self.ended.done():
                raise
            return None

    async def sleep(self) -> None:
        """Ends the worker when its engine does not fall asleep."""
        try:
            await within(self.config.publish_timeout_s, f"{self.handle.name}: sleep", self.handle.sleep())
        except (ActorDiedError, DeadlineError) as error:
            self.end(error)

    async def ping(self) -> None:
        """Ends the worker when its engine does not answer."""
        try:
            tokens = await within(self.config.heartbeat_timeout_s, f"{self.handle.name}: ping", self.handle.ping())
        except (ActorDiedError, DeadlineError) as error:
            self.end(error)
        else:
            if tokens != self.tokens:
                self.tokens, self.last_token_s = tokens, asyncio.get_running_loop().time()

    async def is_gone_with_its_node(self) -> bool:
        """False when the cluster does not answer; see `RolloutWorkerHandle`."""
        what = f"{self.handle.name}: its node"
        try:
            return await within(self.config.heartbeat_timeout_s, what, self.handle.is_gone_with_its_node())
        except (ActorDiedError, DeadlineError):
            return False

    async def until_ended(self) -> MaspoError | None:
        """Pings the worker until it has ended; returns why it was lost, or None when it leaves."""
        while not self.ended.done():
            await asyncio.wait([self.ended], timeout=self.config.heartbeat_s)
            if not self.ended.done():
                await self.ping()
        return self.ended.result()


async def until_settled(slots: Mapping[int, WorkerSlot], pool: PoolState) -> None:
    """Returns when no worker is starting or ending: every process belongs to a running worker."""

    def is_settled(slot: WorkerSlot) -> bool:
        return not slot.has_process or (slot.worker is not None and not slot.worker.ended.done())

    start_s = pool.config.cluster.start_timeout_s + _STOP_S
    pool.condition.notify()  # a slot whose worker has ended may wait for something else
    await pool.condition.until(lambda: all(map(is_settled, slots.values())), start_s, "engines that start or end")


class WorkerSlot:
    """`worker` is the worker that runs in the slot, or None; `closing` is set once the slot is to close.

    refusal      set when no node came for the first worker of a slot that waited for one
    serving_s    loop time at which its newest worker began to serve
    has_process  whether the process of a worker is being started, runs, or is being ended
    """

    def __init__(
        self, index: int, pool: PoolState, is_spare: Callable[[], bool], node_timeout_s: float | None = None
    ) -> None:
        """`is_spare` says whether the slot may close when the cluster has no room for its worker.

        If `node_timeout_s` is given, the slot's first worker waits up to that long for a node that the cluster may add.
        """
        cluster = pool.config.cluster
        self.index = index
        self.name = f"rollout worker {index}"
        self.state: WorkerState = "starting"
        self.worker: RunningWorker | None = None
        self.restarts = 0
        self.serving_s = 0.0
        self.has_process = False
        self.closing = asyncio.Event()
        self.refusal: PlacementError | None = None
        self.budget = RestartBudget(cluster.max_worker_restarts, *cluster.restart_pauses_s)
        self._pool = pool
        self._is_spare = is_spare
        self._node_timeout_s = node_timeout_s
        if node_timeout_s is not None:
            self.state = "waiting"
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
        pool, cluster, clock = self._pool, self._pool.config.cluster, asyncio.get_running_loop().time
        lost_s: float | None = None
        while not self.closing.is_set():
            if self.state != "waiting":
                self.state = "starting"
            worker: RunningWorker | None = None
            cause: MaspoError | None
            try:
                worker = await self._launch()
                async with self._running(worker):
                    await self._join(worker)
                    if not worker.ended.done():
                        self.state, self.serving_s, worker.serves = "serving", clock(), True
                        pool.condition.notify()
                        if lost_s is not None:
                            seconds, lost_s = clock() - lost_s, None
                            message = f"{self.name} serves again after {seconds:.1f} s"
                            self._event("worker_recovered", message, ("seconds", seconds))
                    cause = await worker.until_ended()
            except (ActorDiedError, DeadlineError) as error:
                cause = error
            except PlacementError as error:
                if self._is_spare():
                    self.refusal = error if self._node_timeout_s is not None else None
                    return
                if not pool.is_started:
                    raise
                if self.state != "waiting":
                    self._event("worker_waits", str(error))
                self.state = "waiting"
                await self._pause(cluster.restart_backoff_max_s)
                continue
            pool.condition.notify()
            if self.closing.is_set():
                return
            now_s = clock()
            lost_s = now_s if lost_s is None else lost_s
            if cause is None:
                # Its node leaves, and takes no new worker: the next one starts elsewhere.
                continue
            pause_s = self.budget.lost(now_s)
            if not pool.is_started:
                raise cause
            groups = 0 if worker is None else worker.groups_at_end
            then = "the slot is closed" if pause_s is None else f"replaced in {pause_s:g} s"
            message = f"{cause}; its groups in flight ({groups}) go to others; {then}"
            self._event("worker_lost", message, ("groups", groups))
            if pause_s is None:
                raise cause
            await self._pause(pause_s)
            self.restarts += 1

    async def _launch(self) -> RunningWorker:
        pool, cluster, node_s = self._pool, self._pool.config.cluster, self._node_timeout_s
        await pool.engines_turn(self.closing.is_set)
        self.has_process = True
        try:
            start = pool.factory.start_worker(self.index, cluster.place_timeout_s if node_s is None else node_s)
            seconds, is_spare = cluster.start_timeout_s + (node_s or 0.0), self.state == "waiting"
            handle = await within(seconds, f"{self.name}: start", start, is_spare=is_spare)
        except BaseException as error:
            self._ended()
            is_loss = isinstance(error, ActorDiedError | DeadlineError | PlacementError)
            if is_loss or not pool.is_started or not isinstance(error, Exception):
                raise
            # Other workers may serve: a node that cannot run an engine does not end the run.
            raise ActorDiedError(f"{self.name}: start: {reason_of(error)}") from error
        self._node_timeout_s = None
        return RunningWorker(self.index, handle, cluster)

    @contextlib.asynccontextmanager
    async def _running(self, worker: RunningWorker) -> AsyncIterator[None]:
        """Ends the worker's process on exit: a lost worker is killed at once, any other is asked to stop first."""
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
                self._ended()

    def _ended(self) -> None:
        self.has_process = False
        self._pool.condition.notify()

    async def _join(self, worker: RunningWorker) -> None:
        """Brings `worker` to the pool's weights; before the first publish there are none."""
        pool, condition = self._pool, self._pool.condition
        loaded: WeightUpdate | None = None
        while (weights := pool.weights) is not None and loaded is not weights:
            await pool.engines_turn(worker.ended.done)
            if worker.ended.done():
                return
            if pool.weights is not weights:
                continue
            try:
                stored = await pool.stored(weights, worker.ended.done)
                # While the weights were stored, the learners may have taken the device.
                if stored is not None and pool.weights is weights and not pool.sleeps:
                    await worker.publish(stored)
                    loaded = weights
            except LearnerLostError:
                pool.lost_weights = weights
                condition.notify()
                await condition.until(
                    lambda: pool.weights is not pool.lost_weights or worker.ended.done(),
                    pool.config.publish_deadline_s,
                    "weights of a new learner group",
                )

    async def _pause(self, seconds: float) -> None:
        """Returns early when the slot is to close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()

    def _event(self, kind: EventKind, message: str, *details: tuple[str, float]) -> None:
        self._pool.on_event(Event(kind=kind, message=message, details=(("worker", self.name), *details)))
