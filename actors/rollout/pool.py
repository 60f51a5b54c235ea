"""The rollout workers as one: elastic while the run lasts, and whole after the loss of any of them.

    one place:   starting ──► joining ──────► serving ──► leaving ──► gone
                    ▲         (weights loaded    │
                    │          and proven)       ▼
                    └──── pause, doubled ◄────  lost          waiting: the cluster has no room
                          with each loss

A request goes to the least loaded worker that serves. When a worker is lost, or leaves, its requests go to
others under a new attempt: exactly one result is accepted, since the call that a lost worker might still
answer is no longer listened to. Starting, joining and replacing run beside training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from actors.interfaces import Body, ProbeSequence, PublishReport, WeightSnapshot, WorkerPublish
from actors.ray.waits import within
from actors.rollout.condition import Changes
from actors.rollout.members import ByLoad, Member, RolloutWorkerHandle, Weights, WorkerFactory
from actors.rollout.worker_slot import Place
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
from maspo_dist.flow.failures import RestartBudget, after_loss
from maspo_dist.runs.live import WorkerStatus
from maspo_dist.types import Event, FloatArray, GroupReport, RolloutGroup, RolloutRequest

T = TypeVar("T")

#: How often a pool without a fixed size looks for room in the cluster.
_FOLLOW_S = 5.0
_A_WORKER = "a worker that serves"


class _GoneError(MaspoError):
    """`member` ended with a call aboard: lost for `cause`, or left on request (None). Never leaves this module."""

    def __init__(self, member: Member, cause: MaspoError | None) -> None:
        super().__init__(str(cause))
        self.member = member
        self.cause = cause


class ElasticRolloutPool:
    """Implements `boundaries.RolloutPool`. Call `start` first and `stop` last."""

    def __init__(self, config: TrainConfig, factory: WorkerFactory, on_event: Callable[[Event], None]) -> None:
        self._config = config
        self._rollout = config.rollout
        self._cluster = config.cluster
        self._factory = factory
        self._on_event = on_event
        self._places: dict[int, Place] = {}
        self._next_index = 0
        self._weights: Weights | None = None
        #: Weights that are gone with their learner.
        self._lost_weights: Weights | None = None
        self._held = False
        self._answers = 0
        self._by_load = ByLoad()
        self._changes = Changes("rollout pool")
        self._follower: asyncio.Task[None] | None = None
        self._fewest = config.rollout.first_workers

    # Life of the pool.

    async def start(self) -> None:
        """Starts the first workers side by side and waits until all are up.

        Raises what the first of them dies of: an engine that cannot start now will not start later.
        """
        started = [self._open_place() for _ in range(self._rollout.first_workers)]
        await self._until(
            lambda: not any(place.state == "starting" and place.index in self._places for place in started),
            self._cluster.start_timeout_s,
            "the first workers",
        )
        if isinstance(self._rollout.workers, WorkerRange):
            self._fewest = self._rollout.workers.min
            self._follower = asyncio.create_task(self._follow_cluster(self._rollout.workers), name="pool: follow")
            self._follower.add_done_callback(self._unfollowed)

    async def stop(self) -> None:
        """Ends every worker, gently first."""
        follower, self._follower = self._follower, None
        tasks = [task for place in self._places.values() if (task := place.task) is not None]
        for task in (*tasks, *([follower] if follower else [])):
            task.cancel()
        await asyncio.gather(*tasks, *([follower] if follower else []), return_exceptions=True)
        self._changes.fail(ActorDiedError("the rollout pool is closed"))

    def scale(self, workers: int) -> None:
        """Opens or closes places until there are `workers`; returns at once, the change goes on beside the run.

        A pool that followed the cluster keeps to this number from now on.
        """
        if self._follower is not None:
            self._follower.cancel()
            self._follower = None
        self._resize(workers)

    def _resize(self, workers: int) -> None:
        staying = [place for place in self._places.values() if not place.leaving.is_set()]
        if workers == len(staying):
            return
        self._on_event(Event(kind="scale", message=f"rollout workers: {len(staying)} → {workers}"))
        for _ in range(workers - len(staying)):
            self._open_place()
        # Those that do not serve go first, then the youngest.
        for place in sorted(staying, key=lambda p: (p.state == "serving", -p.index))[: max(0, len(staying) - workers)]:
            place.leave()
        self._changes.notify()

    def status(self) -> tuple[WorkerStatus, ...]:
        """One entry a place, in order."""
        return tuple(
            WorkerStatus(
                name=place.name,
                state=place.state,
                version=place.member.version if place.member else -1,
                groups_in_flight=len(place.member.calls) if place.member else 0,
                restarts=place.restarts,
            )
            for place in self._places.values()
        )

    # What the run asks for.

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        """The report and the body of one group, from whichever worker brings it to an end.

        Raises PoisonPromptError when it ended `rollout.max_attempts` workers, the last one alone, StragglerError past
        the request's `give_up_after_s`, ActorDiedError when no worker is left, and LearnerLostError when none serves
        and the weights are gone with the learner.
        """
        lost_with: list[Member] = []
        alone = False
        attempt = request.attempt
        while True:
            try:
                return await self._dispatch(replace(request, attempt=attempt), alone)
            except _GoneError as gone:
                attempt += 1
                if gone.cause is None:
                    continue
                lost_with = await self._not_with_their_nodes([*lost_with, gone.member])
                fate = after_loss(len(lost_with), alone and gone.member in lost_with, self._rollout.max_attempts)
                if fate == "set_aside":
                    self._forgive(lost_with)
                    what = f"prompt {request.prompt.prompt_id} (group {request.group_id})"
                    raise PoisonPromptError(
                        f"{what} was aboard {len(lost_with)} rollout workers that died; set aside ({gone.cause})"
                    ) from None
                alone = fate == "retry_alone"

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> PublishReport:
        """Hands `snapshot` to every worker that serves, side by side; those that join later get it then.

        A worker that dies meanwhile is replaced. Raises WeightSyncError if one fails the proof, since then none can
        be trusted, and LearnerLostError where the weights are gone with the learner that held them.
        """
        weights = Weights(snapshot, probes, expected)
        if not self._rollout.in_flight_updates:
            self._held = True
            await self._until(
                lambda: all(not member.calls for member in self._serving()),
                self._cluster.generate_timeout_s,
                "requests to end before the weights change",
            )
        try:
            self._weights = weights
            self._changes.notify()
            done = await asyncio.gather(
                *(self._hand_over(member, weights) for member in self._serving()), return_exceptions=True
            )
            for failure in done:
                if isinstance(failure, BaseException):
                    raise failure
            parts = [part for part in done if isinstance(part, WorkerPublish)]
            if not parts:
                # All that served are gone, or none serves yet: the first to join brings the figures.
                await self._until(lambda: bool(self._serving()), self._cluster.serving_deadline_s, _A_WORKER)
                parts = [member.published for member in self._serving() if member.published is not None]
        finally:
            self._held = False
            self._changes.notify()
        return PublishReport(
            version=snapshot.version,
            max_logprob_gap=max(part.max_logprob_gap for part in parts),
            transfer_s=max(part.transfer_s for part in parts),
            pause_s=max(part.pause_s for part in parts),
        )

    async def fetch(self, body: Body) -> RolloutGroup:
        return await within(
            self._cluster.generate_timeout_s, "object store: a rollout group", self._factory.fetch(body)
        )

    def store(self, group: RolloutGroup) -> Body:
        """Puts a group back where `generate` would have left it."""
        return self._factory.store(group)

    # Requests.

    async def _dispatch(self, request: RolloutRequest, alone: bool) -> tuple[GroupReport, Body]:
        member = await self._claim(alone)
        aboard = asyncio.Event()
        call = asyncio.ensure_future(self._call(member.worker, request, aboard))
        member.calls[call] = None
        member.load += request.num_samples
        self._by_load.note(member)
        try:
            async with asyncio.timeout(request.give_up_after_s) as timer:
                answer = await call
            self._answers += 1
            return answer
        except TimeoutError:
            if not timer.expired():
                raise
            raise StragglerError(
                f"group {request.group_id} was not done within {request.give_up_after_s:g} s on {member.worker.name}"
            ) from None
        except asyncio.CancelledError:
            if member.ended.done() and not _is_cancelled():
                # A worker that was lost before the request reached it does not speak against the prompt.
                raise _GoneError(member, member.ended.result() if aboard.is_set() else None) from None
            raise
        except (ActorDiedError, DeadlineError) as error:
            member.end(error)
            raise _GoneError(member, error) from None
        finally:
            member.calls.pop(call, None)
            member.load -= request.num_samples
            if alone:
                member.reserved = False
            self._by_load.note(member)
            self._changes.notify()

    async def _call(
        self, worker: RolloutWorkerHandle, request: RolloutRequest, aboard: asyncio.Event
    ) -> tuple[GroupReport, Body]:
        aboard.set()
        what = f"{worker.name}: group {request.group_id} (prompt {request.prompt.prompt_id})"
        return await within(self._cluster.generate_timeout_s, what, worker.generate(request))

    async def _claim(self, alone: bool) -> Member:
        """A worker that serves: the least loaded; or, alone, one that is then emptied and kept for the caller."""
        while True:
            member = None if self._held or self._changes.is_broken else self._by_load.least()
            if self._is_without_weights():
                raise LearnerLostError("no rollout worker serves, and the weights are gone with the learner")
            if member is None:
                await self._turn(self._answers)
            elif not alone or await self._kept(member):
                return member

    async def _turn(self, answers: int) -> None:
        """Waits for a free worker, or for one more than `answers`: behind others that want to be alone it is a queue,
        and whenever one of them is served, the caller's wait begins anew.
        """
        await self._until(
            lambda: (
                (not self._held and self._by_load.least() is not None)
                or self._answers != answers
                or self._is_without_weights()
            ),
            self._cluster.turn_deadline_s,
            _A_WORKER,
        )

    async def _kept(self, member: Member) -> bool:
        """Keeps `member` for the caller: no request of others left, answering, on new weights. False when it ended."""
        cluster = self._cluster
        member.reserved = True
        try:
            # Its requests pass their own deadline first.
            deadline_s = cluster.generate_timeout_s + cluster.heartbeat_timeout_s
            await self._until(
                lambda: member.ended.done() or not member.calls, deadline_s, f"{member.worker.name} to be empty"
            )
            # One that died unnoticed, with its node say, must not speak against the group.
            if not member.ended.done():
                await member.ping(cluster.heartbeat_timeout_s)
            await self._until(
                lambda: member.ended.done() or not self._held, cluster.serving_deadline_s, "the weights to change"
            )
        except BaseException:
            member.reserved = False
            self._by_load.note(member)
            raise
        return not member.ended.done()

    def _is_without_weights(self) -> bool:
        """Whether no worker serves, and none can join, until a new learner group publishes."""
        return self._weights is not None and self._lost_weights is self._weights and not self._serving()

    def _serving(self) -> list[Member]:
        members = [place.member for place in self._places.values() if place.member is not None]
        return [member for member in members if member.serves and not member.ended.done()]

    # Places.

    def _open_place(self) -> Place:
        cluster = self._cluster
        place = Place(
            index=self._next_index,
            budget=RestartBudget(
                limit=cluster.max_worker_restarts,
                window_s=cluster.restart_window_s,
                backoff_s=cluster.restart_backoff_s,
                backoff_max_s=cluster.restart_backoff_max_s,
            ),
        )
        self._next_index += 1
        self._places[place.index] = place
        place.task = asyncio.create_task(self._occupy(place), name=place.name)
        place.task.add_done_callback(lambda _: self._vacated(place))
        return place

    def _vacated(self, place: Place) -> None:
        self._places.pop(place.index, None)
        task = place.task
        error = None if task is None or task.cancelled() else task.exception()
        is_loss = isinstance(error, ActorDiedError | DeadlineError | PlacementError)
        # Before the first publish nothing has been trained: a worker that cannot start now is the user's to know of.
        if error is not None and (not is_loss or not self._places or self._weights is None):
            self._changes.fail(error)
        self._changes.notify()

    async def _occupy(self, place: Place) -> None:
        """Keeps a worker on `place` until it is to leave. Raises what its last worker died of when it is given up."""
        loop, cluster = asyncio.get_running_loop(), self._cluster
        lost_s: float | None = None
        while not place.leaving.is_set():
            if place.state != "waiting":
                place.state = "starting"
            member: Member | None = None
            cause: MaspoError | None
            try:
                member = await self._started(place)
                async with place.held_by(member):
                    place.state = "joining"
                    self._changes.notify()
                    await self._join(member)
                    if not member.ended.done():
                        place.state, member.serves = "serving", True
                        self._by_load.note(member)
                        self._changes.notify()
                        if lost_s is not None:
                            self._on_event(place.recovery_event(loop.time() - lost_s))
                            lost_s = None
                    cause = await member.until_ended(cluster.heartbeat_s, cluster.heartbeat_timeout_s)
            except (ActorDiedError, DeadlineError) as error:
                cause = error
            except PlacementError as error:
                if self._weights is None:
                    raise
                if self._follower is not None and len(self._places) > self._fewest:
                    return
                if place.state != "waiting":
                    self._on_event(place.waiting_event(error))
                place.state = "waiting"
                await place.pause(cluster.restart_backoff_max_s)
                continue
            self._changes.notify()
            if cause is None or place.leaving.is_set():
                return
            now_s = loop.time()
            lost_s = now_s if lost_s is None else lost_s
            pause_s = place.budget.lost(now_s)
            if self._weights is None:
                raise cause
            self._on_event(place.loss_event(cause, 0 if member is None else member.aboard, pause_s))
            if pause_s is None:
                raise cause
            await place.pause(pause_s)
            place.restarts += 1

    async def _started(self, place: Place) -> Member:
        worker = await within(
            self._cluster.start_timeout_s, f"{place.name}: start", self._factory.start_worker(place.index)
        )
        return Member(place.index, worker, asyncio.get_running_loop().create_future())

    async def _join(self, member: Member) -> None:
        """Brings `member` to the weights that the pool serves; before the first publish there are none."""
        while (weights := self._weights) is not None and member.version != weights.snapshot.version:
            if member.ended.done():
                return
            try:
                await member.give(weights, self._cluster.publish_timeout_s)
            except LearnerLostError:
                self._lost_weights = weights
                self._changes.notify()
                await self._superseded(weights, member)

    async def _superseded(self, weights: Weights, member: Member) -> None:
        """Waits until a new learner group publishes others than `weights`, or `member` has ended."""
        await self._until(
            lambda: self._weights is not weights or member.ended.done(),
            self._config.publish_deadline_s,
            "weights of a new learner group",
        )

    async def _hand_over(self, member: Member, weights: Weights) -> WorkerPublish | None:
        """`weights` to a worker that serves; None when it was lost over it."""
        try:
            return await member.give(weights, self._cluster.publish_timeout_s)
        except (ActorDiedError, DeadlineError) as error:
            member.end(error)
            return None
        except Exception:
            if member.ended.done():
                # It left, and its engine ended under the publish.
                return None
            raise

    async def _not_with_their_nodes(self, lost: Sequence[Member]) -> list[Member]:
        """Those of `lost` whose nodes are still there: no prompt takes a node down.

        A cluster takes some seconds to miss a node, so it is asked about the earlier ones again.
        """
        timeout_s = self._cluster.heartbeat_timeout_s
        gone = await asyncio.gather(*(member.is_gone_with_its_node(timeout_s) for member in lost))
        return [member for member, is_gone in zip(lost, gone, strict=True) if not is_gone]

    def _forgive(self, lost: Sequence[Member]) -> None:
        """Workers that a prompt ended do not count against their places."""
        for member in lost:
            if (place := self._places.get(member.index)) is not None:
                place.budget.forgive()

    def _unfollowed(self, follower: asyncio.Task[None]) -> None:
        if not follower.cancelled() and (error := follower.exception()) is not None:
            self._changes.fail(error)

    async def _follow_cluster(self, bounds: WorkerRange) -> None:
        """Opens places as the cluster gains room; places whose nodes went close by themselves."""
        while True:
            await asyncio.sleep(_FOLLOW_S)
            wanted = bounds.max - len(self._places)
            room = min(wanted, await self._factory.room()) if wanted > 0 else 0
            if room > 0:
                self._resize(len(self._places) + room)

    async def _until(self, condition: Callable[[], bool], deadline_s: float, what: str) -> None:
        """Waits for `condition`. Raises what broke the pool, and a DeadlineError that says how its workers stand."""
        try:
            await self._changes.until(condition, deadline_s, what)
        except DeadlineError as error:
            states = ", ".join(f"{place.index} {place.state}" for place in self._places.values())
            raise DeadlineError(f"{error} (workers: {states or 'none'})") from None


def _is_cancelled() -> bool:
    """Whether the running task itself was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
