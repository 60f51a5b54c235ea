"""The generation side of the loop: prompts in, scored groups out, within the age bound.

    PromptCursor ──admit──► RolloutPool.generate (one task a group) ──► finished ──take──► batch

One code path for any `max_policy_age`: `pump` admits what `open_slots` allows, `take` hands over what
`select_batch` picks; both are in `maspo_dist.flow.admission`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.interfaces import Body, RolloutPool
from actors.ray.waits import within
from maspo_dist.algorithm import score_group
from maspo_dist.config import TrainConfig
from maspo_dist.data.cursor import CursorState
from maspo_dist.errors import BodyLostError, PoisonPromptError, StragglerError
from maspo_dist.flow.admission import Candidate, Waiting, open_slots, select_batch
from maspo_dist.flow.ledger import Ledger
from maspo_dist.flow.seeds import group_seed
from maspo_dist.flow.selection import drop_reason
from maspo_dist.runs.checkpoint import FinishedGroup, PendingGroup, StreamState
from maspo_dist.types import DropReason, Event, GroupReport, LossReason, Prompt, RolloutRequest, Sampling, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedGroup:
    """A finished group, where its body lies, why it will not train, if so, and when it was sent (wall clock)."""

    group_id: int
    scored: ScoredGroup
    body: Body
    dropped: DropReason | None
    sent_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LostGroup:
    """A group that came to nothing, or of which nothing but the reason why it would not train is left."""

    group_id: int
    reason: LossReason | DropReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step consumes, in the order of admission: groups that were sampled, and those that could not be."""

    groups: tuple[CollectedGroup, ...]
    lost: tuple[LostGroup, ...]


class PromptSource(Protocol):
    """Where training prompts come from, in order; see `PromptCursor`."""

    @property
    def state(self) -> CursorState: ...

    def take(self, count: int) -> Sequence[Prompt]: ...

    def at(self, state: CursorState) -> Prompt: ...


@dataclass(slots=True, eq=False)
class _Open:
    """A group that no batch has taken."""

    group_id: int
    prompt: Prompt
    drawn_at: CursorState
    born: int
    refilled: bool = False
    sent_at_s: float = 0.0
    outcome: CollectedGroup | LostGroup | None = None
    task: asyncio.Task[None] | None = None


def _trains(group: _Open) -> bool:
    return isinstance(group.outcome, CollectedGroup) and group.outcome.dropped is None


def _admission(group: _Open) -> int:
    return group.group_id


class GroupStream:
    """Owns admission, and every group between its prompt and its batch."""

    def __init__(
        self,
        config: TrainConfig,
        pool: RolloutPool,
        prompts: PromptSource,
        ledger: Ledger,
        *,
        batches: int,
        on_progress: Callable[[str], None],
        on_event: Callable[[Event], None],
        restored: StreamState | None = None,
        finished: Sequence[FinishedGroup] = (),
    ) -> None:
        """`batches` are to be taken in all. `restored` and `finished` are what `snapshot` gave at the checkpoint to go
        on from; `prompts` then stands where that says.
        """
        self._config = config
        self._pool = pool
        self._prompts = prompts
        self._ledger = ledger
        self._on_progress = on_progress
        self._on_event = on_event
        rollout = config.rollout
        sampling = config.algorithm.dynamic_sampling
        self._drop_zero_variance = sampling.zero_variance != "keep"
        refills = sampling.zero_variance == "refill"
        self._max_refills = int(sampling.max_refill_ratio * rollout.prompts_per_step) if refills else 0
        self._refills = 0
        self._sampling = Sampling(
            temperature=rollout.temperature,
            max_response_tokens=rollout.max_response_tokens,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            repetition_penalty=rollout.repetition_penalty,
        )
        self._batches_left = batches
        self._next_group = 0
        self._open: dict[int, _Open] = {}
        #: What the last batch took, and the refills that it counted.
        self._taken: list[_Open] = []
        self._taken_refills = 0
        self._slots = 0
        self._unfinished = 0
        self._served_version = 0
        self._failure: BaseException | None = None
        self._awaited: int | None = None
        self._changed = asyncio.Event()
        if restored is not None:
            self._restore(restored, finished)

    def pump(self, policy_version: int) -> None:
        """Admits groups as far as the age bound allows; call it whenever that may have changed."""
        self._served_version = policy_version
        algorithm, rollout = self._config.algorithm, self._config.rollout
        per_step = rollout.prompts_per_step
        allowed = open_slots(self._slots, per_step, algorithm.max_policy_age, rollout.over_sampling)
        needed = self._batches_left * per_step - self._slots
        for _ in range(min(allowed, needed)):
            drawn_at = self._prompts.state
            [prompt] = self._prompts.take(1)
            group = _Open(self._next_group, prompt, drawn_at, policy_version)
            self._next_group += 1
            self._admit(group)
            self._send(group)

    async def take(self, policy_version: int) -> Batch:
        """The next batch's groups, dropped ones included.

        Raises DeadlineError naming the prompts that everything waits for, and whatever ended a group's task.
        """
        self.pump(policy_version)
        while isinstance(chosen := self._select(policy_version), Waiting):
            self._awaited = chosen.group_id
            self._changed.clear()
            self._say_progress()
            if self._failure is None:
                await within(self._config.group_deadline_s, self._waits_for(), self._changed.wait())
            if self._failure is not None:
                raise self._failure
            self.pump(policy_version)
        self._taken = [self._open.pop(group_id) for group_id in chosen]
        self._slots -= sum(not group.refilled for group in self._taken)
        self._taken_refills, self._refills = self._refills, 0
        self._batches_left -= 1
        outcomes = [group.outcome for group in self._taken]
        return Batch(
            groups=tuple(
                self._aged(outcome, policy_version) for outcome in outcomes if isinstance(outcome, CollectedGroup)
            ),
            lost=tuple(outcome for outcome in outcomes if isinstance(outcome, LostGroup)),
        )

    async def take_back(self) -> None:
        """The last batch could not be trained: its groups are open again, and those whose bodies are gone with a node
        are sampled again.
        """
        groups, self._taken = self._taken, []
        self._open = {group.group_id: group for group in sorted((*groups, *self._open.values()), key=_admission)}
        self._slots += sum(not group.refilled for group in groups)
        self._refills += self._taken_refills
        self._batches_left += 1
        await asyncio.gather(*(self._fetched(group) for group in groups if _trains(group)))

    async def stop(self) -> None:
        """Calls back what is in flight; it stays open in the ledger."""
        tasks = [group.task for group in self._open.values() if group.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._open.clear()
        self._slots = self._unfinished = 0

    async def snapshot(self) -> tuple[StreamState, tuple[FinishedGroup, ...]]:
        """What a checkpoint needs: how the stream stands, and the groups that are sampled and scored and that no batch
        has taken. Bodies are fetched side by side; of those that are gone with a node, groups that would train are
        sampled again.
        """
        fetched = await asyncio.gather(*(self._fetched(group) for group in list(self._open.values())))
        finished = {group.scored.report.group_id: group for group in fetched if group is not None}
        state = StreamState(
            next_group=self._next_group,
            cursor=self._prompts.state,
            pending=tuple(
                PendingGroup(
                    group_id=group.group_id,
                    drawn_at=group.drawn_at,
                    # What finished meanwhile will be sampled again, in a slot of its own.
                    refilled=group.refilled and (group.group_id in finished or isinstance(group.outcome, LostGroup)),
                    lost=group.outcome.reason if isinstance(group.outcome, LostGroup) else None,
                )
                for group in self._open.values()
            ),
            refills=self._refills,
        )
        return state, tuple(finished.values())

    @property
    def in_flight(self) -> int:
        return self._unfinished

    @property
    def finished(self) -> int:
        return len(self._open) - self._unfinished

    # Groups.

    def _sample_again(self, group: _Open) -> None:
        self._ledger.reopen(group.group_id)
        group.outcome = None
        group.born = self._served_version
        self._unfinished += 1
        self._send(group)

    async def _fetched(self, group: _Open) -> FinishedGroup | None:
        outcome = group.outcome
        if not isinstance(outcome, CollectedGroup):
            return None
        try:
            body = await self._pool.fetch(outcome.body)
        except BodyLostError as error:
            if outcome.dropped is None:
                then = "it is sampled again"
                self._sample_again(group)
            else:
                then = f"it would not have trained ({outcome.dropped})"
                group.outcome = LostGroup(group_id=group.group_id, reason=outcome.dropped)
            self._on_event(Event(kind="group_lost", message=f"{error}; {then}", details=(("group", group.group_id),)))
            return None
        return FinishedGroup(scored=outcome.scored, body=body, dropped=outcome.dropped)

    def _restore(self, state: StreamState, finished: Sequence[FinishedGroup]) -> None:
        bodies = {group.scored.report.group_id: group for group in finished}
        self._next_group, self._refills = state.next_group, state.refills
        for pending in state.pending:
            group = _Open(
                pending.group_id,
                self._prompts.at(pending.drawn_at),
                pending.drawn_at,
                born=-1,
                refilled=pending.refilled,
            )
            self._admit(group)
            if pending.lost is not None:
                self._enter(group, LostGroup(group_id=group.group_id, reason=pending.lost))
            if (done := bodies.get(pending.group_id)) is not None:
                group.born = int(done.scored.report.oldest_version.min())
                self._enter(
                    group,
                    CollectedGroup(
                        group_id=group.group_id,
                        scored=done.scored,
                        body=self._pool.store(done.body),
                        dropped=done.dropped,
                        sent_at_s=done.scored.report.generated_at_s,
                    ),
                )

    def resend(self, policy_version: int) -> None:
        """Sends restored groups that had no result yet; call it once the pool serves `policy_version`."""
        for group in self._open.values():
            if group.task is None and not isinstance(group.outcome, CollectedGroup):
                group.born = policy_version
                if group.outcome is None:
                    self._send(group)

    def _admit(self, group: _Open) -> None:
        self._ledger.admit(group.group_id, group.prompt.prompt_id)
        self._open[group.group_id] = group
        self._slots += not group.refilled
        self._unfinished += 1

    def _send(self, group: _Open) -> None:
        group.sent_at_s = time.time()
        group.task = asyncio.create_task(self._collect(group), name=f"group {group.group_id}")
        group.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
            self._failure = error
            self._changed.set()

    async def _collect(self, group: _Open) -> None:
        straggler = self._config.rollout.straggler
        is_cut = straggler.action == "truncate"
        request = RolloutRequest(
            group_id=group.group_id,
            attempt=0,
            prompt=group.prompt,
            num_samples=self._config.rollout.group_size,
            sampling=self._sampling,
            seed=group_seed(self._config.run.seed, group.group_id),
            cut_after_s=straggler.deadline_s if is_cut else None,
            give_up_after_s=None if is_cut else straggler.deadline_s,
        )
        try:
            report, body = await self._sample(request)
        except PoisonPromptError as error:
            self._on_event(Event(kind="prompt_set_aside", message=str(error), details=(("group", group.group_id),)))
            self._finish(group, LostGroup(group_id=group.group_id, reason="poison"))
        except StragglerError:
            self._finish(group, LostGroup(group_id=group.group_id, reason="straggler"))
        else:
            scored = score_group(report, self._config.algorithm, self._config.rollout.max_response_tokens)
            dropped = drop_reason(scored, drop_zero_variance=self._drop_zero_variance)
            self._finish(
                group,
                CollectedGroup(
                    group_id=group.group_id, scored=scored, body=body, dropped=dropped, sent_at_s=group.sent_at_s
                ),
            )

    async def _sample(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        """One result, as `rollout.straggler` says where it takes long."""
        requeues = self._config.rollout.straggler.action == "requeue"
        last = self._config.rollout.max_attempts - 1 if requeues else 0
        for attempt in range(last):
            # Under its own seed again: another one would prefer prompts that have short responses.
            with contextlib.suppress(StragglerError):
                return await self._pool.generate(replace(request, attempt=attempt))
        return await self._pool.generate(replace(request, attempt=last))

    def _enter(self, group: _Open, outcome: CollectedGroup | LostGroup) -> None:
        self._ledger.finish(group.group_id)
        group.outcome = outcome
        self._unfinished -= 1

    def _finish(self, group: _Open, outcome: CollectedGroup | LostGroup) -> None:
        self._enter(group, outcome)
        no_use = isinstance(outcome, CollectedGroup) and outcome.dropped is not None
        if no_use and not group.refilled and self._refills < self._max_refills:
            group.refilled = True
            self._refills += 1
            self._slots -= 1
            self._changed.set()
        if self._awaited in (None, group.group_id):
            self._changed.set()
        self._say_progress()

    def _select(self, policy_version: int) -> list[int] | Waiting:
        algorithm, rollout = self._config.algorithm, self._config.rollout
        candidates = (
            Candidate(group.group_id, group.born, group.outcome is not None, not group.refilled)
            for group in self._open.values()
        )
        return select_batch(
            candidates,
            policy_version,
            groups_per_step=rollout.prompts_per_step,
            max_policy_age=algorithm.max_policy_age,
            order=rollout.batch_order,
        )

    def _aged(self, group: CollectedGroup, policy_version: int) -> CollectedGroup:
        oldest = int(group.scored.report.oldest_version.min())
        if group.dropped is None and policy_version - oldest > self._config.algorithm.max_policy_age:
            return replace(group, dropped="too_old")
        return group

    def _waits_for(self) -> str:
        if self._awaited is None:
            waiting = [group for group in self._open.values() if group.outcome is None][:4]
        else:
            waiting = [self._open[self._awaited]]
        names = ", ".join(f"group {group.group_id} (prompt {group.prompt.prompt_id})" for group in waiting)
        return f"rollout: a finished group; waits for {names or 'none'}"

    def _say_progress(self) -> None:
        per_step = self._config.rollout.prompts_per_step
        self._on_progress(f"generate {min(self.finished, per_step)}/{per_step} groups")
