"""The rollout workers as one: the pool grows and shrinks during a run and survives the loss of any worker.

A request goes to the least loaded worker that serves. When a worker is lost or leaves, its requests go to others.
Exactly one result is accepted: calls to a lost worker are cancelled, so a late answer is ignored. Workers start, join
and are replaced during training, see `worker_slot`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from operator import attrgetter

from actors.interfaces import AnnouncedWeights, Body, PublishReport, WeightUpdate, WorkerFactory
from actors.ray.waits import BreakableCondition, cancel_all, within
from actors.rollout.by_node import of_living_nodes, publish_by_node
from actors.rollout.direct import DirectPublisher, Outcome
from actors.rollout.growth import Growth
from actors.rollout.worker_slot import PoolState, RunningWorker, WorkerSlot, until_settled
from actors.weights.transport import SHARED_ON_A_NODE
from maspo_dist.config import TrainConfig, WorkerRange
from maspo_dist.errors import (
    ActorDiedError,
    DeadlineError,
    LearnerLostError,
    MaspoError,
    PlacementError,
    PoisonPromptError,
    StragglerError,
)
from maspo_dist.flow.failures import after_loss
from maspo_dist.runs.live import WorkerStatus
from maspo_dist.runs.rows import Event
from maspo_dist.types import GroupReport, RolloutGroup, RolloutRequest

_A_WORKER = "a worker that serves"
_LOAD = attrgetter("load")


class _WorkerEndedError(MaspoError):
    """`worker` ended with a call in flight: lost for `cause`, or left on request (None). Caught in this module."""

    def __init__(self, worker: RunningWorker, cause: MaspoError | None) -> None:
        super().__init__(str(cause))
        self.worker = worker
        self.cause = cause


class ElasticRolloutPool:
    """Implements `interfaces.RolloutPool`. Call `start` first and `stop` last."""

    def __init__(
        self,
        config: TrainConfig,
        factory: WorkerFactory,
        on_event: Callable[[Event], None],
        direct: DirectPublisher | None = None,
    ) -> None:
        """`direct` publishes weights that are announced; None where weights are only exported."""
        self._rollout = config.rollout
        self._cluster = config.cluster
        self._is_colocated = config.cluster.layout == "colocated"
        self._is_shared_on_a_node = config.sync.transport in SHARED_ON_A_NODE
        self._slots: dict[int, WorkerSlot] = {}
        self._next_index = 0
        self._condition = BreakableCondition("rollout pool", self._describe)
        self._state = PoolState(config, factory, self._condition, on_event, direct.keeper if direct else None)
        self._direct = direct
        #: While true, no request is dispatched: the weights change when the requests in flight have ended.
        self._held = False
        self._answers = 0
        self._growth: Growth | None = None
        self._follower: asyncio.Task[None] | None = None
        self._fewest = config.rollout.first_workers

    # Life of the pool.

    async def start(self) -> None:
        """Starts the first workers concurrently and waits until all run.

        Raises the error of the first worker that fails: an engine that cannot start now will not start later.
        """
        started = [self._open_slot() for _ in range(self._rollout.first_workers)]
        await self._condition.until(
            lambda: not any(slot.state == "starting" and slot.index in self._slots for slot in started),
            self._cluster.start_timeout_s,
            "the first workers",
        )
        self._state.is_started = True
        if isinstance(self._rollout.workers, WorkerRange):
            bounds = self._rollout.workers
            self._fewest = bounds.min
            self._growth = Growth(bounds, self._state, self._slots, self._resize, self._open_slot)
            self._follower = asyncio.create_task(self._growth.follow(), name="pool: follow")

    async def stop(self) -> None:
        """Ends every worker; engines end their own processes first."""
        tasks = [slot.task for slot in self._slots.values()]
        await cancel_all([*tasks, *([self._follower] if self._follower else [])])
        self._condition.fail(ActorDiedError("the rollout pool is closed"))

    def scale(self, workers: int) -> None:
        """Opens or closes slots until there are `workers`. Returns at once: workers start and leave during the run.

        The number is then fixed, also where `rollout.workers` is a range. Colocated engines keep their number.
        """
        if self._is_colocated:
            message = f"not {workers} rollout workers: cluster.layout colocated ties their number to learner ranks"
            self._state.on_event(Event(kind="scale", message=message))
            return
        if self._follower is not None:
            self._follower.cancel()
            self._follower = None
        self._resize(workers)

    def leave_nodes(self, leaving: Mapping[str, float]) -> None:
        """Ends the workers on these nodes; each starts again elsewhere."""
        for slot in self._slots.values():
            worker = slot.worker
            if worker is None or worker.ended.done() or worker.handle.node_id not in leaving:
                continue
            left = f"in {leaving[worker.handle.node_id]:.0f} s" if leaving[worker.handle.node_id] < math.inf else "soon"
            message = f"{slot.name}: its node leaves {left}; its groups in flight ({len(worker.calls)}) go to others"
            self._state.on_event(Event(kind="worker_moves", message=message, details=(("worker", slot.name),)))
            worker.end(None)
        self._condition.notify()

    def status(self) -> tuple[WorkerStatus, ...]:
        """One entry per slot, in order."""
        return tuple(
            WorkerStatus(
                name=slot.name,
                state=slot.state,
                version=slot.worker.version if slot.worker else -1,
                groups_in_flight=len(slot.worker.calls) if slot.worker else 0,
                restarts=slot.restarts,
                engine=slot.worker.handle.figures if slot.worker else None,
            )
            for slot in self._slots.values()
        )

    # What the run asks for.

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        """The report and the body of one group, from the worker that finishes it.

        Raises PoisonPromptError when `rollout.max_attempts` workers died while they ran the group, and the last of
        these workers ran nothing else; StragglerError past the request's `give_up_after_s`; ActorDiedError when no
        worker is left; LearnerLostError when no worker serves and the weights were lost with the learner.
        """
        lost: list[RunningWorker] = []
        alone = False
        while True:
            try:
                return await self._dispatch(request, alone)
            except _WorkerEndedError as ended:
                if ended.cause is None:
                    continue
                lost = await of_living_nodes([*lost, ended.worker])
                fate = after_loss(len(lost), alone and ended.worker in lost, self._rollout.max_attempts)
                if fate == "set_aside":
                    for worker in lost:
                        # A worker that a prompt killed does not use up the restarts of its slot.
                        if (slot := self._slots.get(worker.index)) is not None:
                            slot.budget.forgive()
                    what = f"prompt {request.prompt.prompt_id} (group {request.group_id})"
                    raise PoisonPromptError(
                        f"{what} was in flight on {len(lost)} rollout workers that died; set aside ({ended.cause})"
                    ) from None
                alone = fate == "retry_alone"

    async def publish(self, update: WeightUpdate) -> PublishReport:
        """Publishes `update` to all serving workers at once; a worker that joins later receives it first.

        A worker that dies meanwhile is replaced. Raises WeightSyncError if any worker fails the proof, since then no
        worker can be trusted, and LearnerLostError when the weights were lost with their learner.
        """
        if not self._rollout.in_flight_updates:
            await self._hold_requests()
        try:
            self._state.weights, self._state.sleeps = update, False
            self._condition.notify()
            for failure in (done := await self._publish(update)):
                if isinstance(failure, BaseException):
                    raise failure
            parts = [part for part in done if isinstance(part, PublishReport)]
            if not parts:
                # Every worker was lost, or none serves yet: the first worker to join has the figures.
                await self._condition.until(
                    lambda: bool(self._serving()) or self._is_without_weights(),
                    self._cluster.serving_deadline_s,
                    _A_WORKER,
                )
                self._raise_without_weights()
                parts = [worker.published for worker in self._serving() if worker.published is not None]
        finally:
            self._held = False
            self._condition.notify()
        return PublishReport(
            version=update.version,
            mean_logprob_gap=max(part.mean_logprob_gap for part in parts),
            max_logprob_gap=max(part.max_logprob_gap for part in parts),
            transfer_s=max(part.transfer_s for part in parts),
            pause_s=max(part.pause_s for part in parts),
        )

    async def sleep(self) -> None:
        """Returns when every engine has left its device to the learners, until the next publish. Requests wait."""
        await self._hold_requests()
        self._state.sleeps = True
        await until_settled(self._slots, self._state)
        await asyncio.gather(*(slot.worker.sleep() for slot in self._slots.values() if slot.worker is not None))
        await until_settled(self._slots, self._state)

    async def _hold_requests(self) -> None:
        """Returns when no request is in flight; later requests wait for the end of the next publish."""
        self._held = True
        await self._condition.until(
            lambda: all(not worker.calls for worker in self._serving()),
            self._cluster.last_request_deadline_s,
            "requests to end before the weights change",
            self.last_token_s,
        )

    async def fetch(self, body: Body) -> RolloutGroup:
        return await within(
            self._cluster.generate_timeout_s, "object store: a rollout group", self._state.factory.fetch(body)
        )

    def store(self, group: RolloutGroup) -> Body:
        """Puts a group back where `generate` would have left it."""
        return self._state.factory.store(group)

    def last_token_s(self) -> float:
        return max((slot.worker.last_token_s for slot in self._slots.values() if slot.worker), default=0.0)

    # Requests.

    async def _dispatch(self, request: RolloutRequest, alone: bool) -> tuple[GroupReport, Body]:
        worker = await self._claim(alone)
        is_sent = asyncio.Event()
        call = asyncio.ensure_future(self._call(worker, request, is_sent))
        worker.calls[call] = None
        worker.load += request.num_samples
        try:
            async with asyncio.timeout(request.give_up_after_s) as timer:
                answer = await call
            self._answers += 1
            return answer
        except TimeoutError:
            if not timer.expired():
                raise
            raise StragglerError(
                f"group {request.group_id} was not done within {request.give_up_after_s:g} s on {worker.handle.name}"
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not worker.ended.done() or (task is not None and task.cancelling()):
                raise
            # A worker that was lost before it got the request does not count against the prompt.
            raise _WorkerEndedError(worker, worker.ended.result() if is_sent.is_set() else None) from None
        except (ActorDiedError, DeadlineError) as error:
            worker.end(error)
            raise _WorkerEndedError(worker, error) from None
        finally:
            worker.calls.pop(call, None)
            worker.load -= request.num_samples
            if alone:
                worker.reserved = False
            self._condition.notify()

    async def _call(
        self, worker: RunningWorker, request: RolloutRequest, is_sent: asyncio.Event
    ) -> tuple[GroupReport, Body]:
        is_sent.set()
        what = f"{worker.handle.name}: group {request.group_id} (prompt {request.prompt.prompt_id})"
        answer = worker.handle.generate(request)
        return await within(self._cluster.generate_timeout_s, what, answer, lambda: worker.last_token_s)

    async def _claim(self, alone: bool) -> RunningWorker:
        """The least loaded worker that serves; with `alone`, reserved for the caller and emptied first.

        The deadline restarts whenever another caller gets an answer or a worker begins to serve, so it is long enough
        however many requests run alone.
        """
        while True:
            self._condition.raise_failure()
            self._raise_without_weights()
            if (worker := self._least_loaded()) is None:
                await self._until_changed(self._answers)
            elif not alone or await self._reserve(worker):
                return worker

    def _least_loaded(self) -> RunningWorker | None:
        """The free worker with the fewest responses in flight, of equals the oldest; None while requests are held."""
        free = [worker for worker in self._serving() if worker.is_whole and not worker.reserved and not self._held]
        return min(free, key=_LOAD, default=None)

    async def _until_changed(self, answers: int) -> None:
        """Waits until a worker is free, the number of answered requests is not `answers`, or the weights are lost."""
        await self._condition.until(
            lambda: self._least_loaded() is not None or self._answers != answers or self._is_without_weights(),
            self._cluster.turn_deadline_s,
            _A_WORKER,
            lambda: max([self.last_token_s(), *(slot.serving_s for slot in self._slots.values())]),
        )

    async def _reserve(self, worker: RunningWorker) -> bool:
        """Reserves `worker` for the caller and waits until it has no other request. False when it ended meanwhile."""
        cluster, condition = self._cluster, self._condition
        worker.reserved = True
        try:
            await condition.until(
                lambda: worker.ended.done() or not worker.calls,
                cluster.last_request_deadline_s,
                f"{worker.handle.name} to be empty",
                lambda: worker.last_token_s,
            )
            # A worker that is already dead must not count as killed by this group.
            if not worker.ended.done():
                await worker.ping()
            await condition.until(
                lambda: worker.ended.done() or (worker.is_whole and not self._held),
                cluster.serving_deadline_s,
                "the weights to change",
            )
        except BaseException:
            worker.reserved = False
            raise
        return not worker.ended.done()

    async def _publish(self, update: WeightUpdate) -> list[Outcome]:
        """What the workers that serve report or raise."""
        workers, done = self._serving(), list[Outcome]()
        if self._direct is not None and isinstance(update.snapshot, AnnouncedWeights):
            done, workers = await self._direct.publish(workers, update)
            self._state.kept_weights = update
            self._condition.notify()
        if not workers or (stored := await self._state.stored(update)) is None:
            return done
        return done + await publish_by_node(workers, stored, is_shared=self._is_shared_on_a_node)

    def _is_without_weights(self) -> bool:
        """Whether no worker serves, and none can join, until a new learner group publishes."""
        state = self._state
        return state.weights is not None and state.lost_weights is state.weights and not self._serving()

    def _raise_without_weights(self) -> None:
        if self._is_without_weights():
            raise LearnerLostError("no rollout worker serves, and the weights were lost with the learner")

    def _serving(self) -> list[RunningWorker]:
        return [worker for slot in self._slots.values() if (worker := slot.worker) is not None and worker.serves]

    # Slots.

    def _open_slot(self, node_timeout_s: float | None = None) -> WorkerSlot:
        slot = WorkerSlot(self._next_index, self._state, self._has_spare_slots, node_timeout_s)
        self._next_index += 1
        self._slots[slot.index] = slot
        slot.task.add_done_callback(lambda _: self._slot_closed(slot))
        return slot

    def _slot_closed(self, slot: WorkerSlot) -> None:
        self._slots.pop(slot.index, None)
        if slot.refusal is not None and self._growth is not None:
            self._growth.refused(slot.refusal)
        error = None if slot.task.cancelled() else slot.task.exception()
        is_loss = isinstance(error, ActorDiedError | DeadlineError | PlacementError)
        if error is not None and (not is_loss or not self._slots or not self._state.is_started):
            self._condition.fail(error)
        self._condition.notify()

    def _has_spare_slots(self) -> bool:
        return self._follower is not None and len(self._slots) > self._fewest

    def _resize(self, workers: int) -> None:
        staying = [slot for slot in self._slots.values() if not slot.closing.is_set()]
        if workers == len(staying):
            return
        self._state.on_event(Event(kind="scale", message=f"rollout workers: {len(staying)} → {workers}"))
        for _ in range(workers - len(staying)):
            self._open_slot()
        # Workers that do not serve leave first, then the youngest.
        for slot in sorted(staying, key=lambda s: (s.state == "serving", -s.index))[: max(0, len(staying) - workers)]:
            slot.close()
        self._condition.notify()

    def _describe(self) -> str:
        states = ", ".join(f"{slot.index} {slot.state}" for slot in self._slots.values())
        return f"workers: {states or 'none'}"
