"""The generation side of the loop: prompts in, scored groups out, within the age bound.

    OpenGroups.admit ──► RolloutPool.generate (one task per group) ──► score ──► OpenGroups.finish ──take──► Batch

One code path for any `max_policy_age`. This file holds the dispatch; `open_groups` holds the set of groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from actors.controller.conversation_rows import environment_events
from actors.controller.open_groups import OpenGroup, OpenGroups, PromptSource
from actors.interfaces import Body, RolloutPool
from actors.ray.waits import cancel_all, within
from maspo_dist.algorithm.advantages import score_group
from maspo_dist.config import TrainConfig
from maspo_dist.errors import BodyLostError, LearnerLostError, PoisonPromptError, StragglerError
from maspo_dist.flow.admission import Waiting
from maspo_dist.flow.ledger import Ledger
from maspo_dist.flow.seeds import group_seed
from maspo_dist.flow.selection import drop_reason, drop_too_old
from maspo_dist.runs.checkpoint import StreamState
from maspo_dist.runs.rows import Event
from maspo_dist.types import DropReason, FinishedGroup, GroupReport, LossReason, RolloutGroup, RolloutRequest, Sampling

#: How often the batch of one step may be taken back. After more times, the learners count as lost.
_MOST_TAKE_BACKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step consumes, in the order of admission.

    groups   groups with a result, including groups that are dropped before training
    lost     group id → why the group has no result
    """

    groups: tuple[FinishedGroup[Body], ...]
    lost: Mapping[int, LossReason | DropReason]

    @property
    def training(self) -> list[FinishedGroup[Body]]:
        return [group for group in self.groups if group.dropped is None]

    def enter(self, ledger: Ledger, step: int) -> None:
        """Ends every group of the batch in the ledger, once the batch is done."""
        for group in self.groups:
            if group.dropped is None:
                ledger.train(group.group_id, step)
            else:
                ledger.drop(group.group_id, step, group.dropped)
        for group_id, reason in self.lost.items():
            ledger.drop(group_id, step, reason)


class GroupStream:
    """Sends open groups to the pool, scores what comes back, and hands over batches."""

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
        finished: Sequence[FinishedGroup[RolloutGroup]] = (),
    ) -> None:
        """The run takes `batches` batches in all. `restored` and `finished` are the results of `snapshot` in the
        checkpoint to resume from; `prompts` must be at the cursor of `restored`.
        """
        self._config = config
        self._pool = pool
        self._on_progress = on_progress
        self._on_event = on_event
        rollout = config.rollout
        self._sampling = Sampling(
            temperature=rollout.temperature,
            max_response_tokens=rollout.max_response_tokens,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            repetition_penalty=rollout.repetition_penalty,
        )
        self._served_version = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._awaited: int | None = None
        self._changed = asyncio.Event()
        self._environment_failures: set[str] = set()
        #: Times that the batch of a step was taken back.
        self._taken_back: Counter[int] = Counter()
        self.groups = OpenGroups(config, prompts, ledger, batches=batches)
        if restored is not None:
            self.groups.restore(restored, finished, pool.store)

    def pump(self, policy_version: int) -> None:
        """Admits groups as far as the age bound allows; call it whenever that may have changed."""
        self._served_version = policy_version
        for group in self.groups.admit(policy_version):
            self._send(group)

    def resend(self, policy_version: int) -> None:
        """Sends restored groups without a result; call it once the pool serves `policy_version`."""
        for group in self.groups:
            if group.born < 0:
                group.born = policy_version
                if group.outcome is None:
                    self._send(group)

    async def take(self, policy_version: int) -> Batch:
        """The groups of the next batch, including dropped groups.

        Raises DeadlineError naming the prompts of the open groups, or the error that ended a group's task.
        """
        self.pump(policy_version)
        while isinstance(chosen := self.groups.select(policy_version), Waiting):
            self._awaited = chosen.group_id
            self._changed.clear()
            self._say_progress()
            if self._failure is None:
                changed, last_token_s = self._changed.wait(), self._pool.last_token_s
                await within(self._config.group_deadline_s, self._waits_for(), changed, last_token_s)
            if self._failure is not None:
                raise self._failure
            self.pump(policy_version)
        bound = self._config.algorithm.max_policy_age
        outcomes = {group.group_id: group.outcome for group in self.groups.take(chosen)}
        return Batch(
            groups=tuple(
                drop_too_old(outcome, policy_version, bound)
                for outcome in outcomes.values()
                if isinstance(outcome, FinishedGroup)
            ),
            lost={group_id: outcome for group_id, outcome in outcomes.items() if isinstance(outcome, str)},
        )

    async def take_back(self, step: int, error: BodyLostError) -> None:
        """Undoes the last `take`, for `step`, since learners could not read a body. Groups whose bodies were lost with
        a node are sampled again. The bodies of the other groups are copied to the node of this process.

        Raises LearnerLostError when one step is taken back too often: the cause is then the learners, not lost bodies.
        """
        self._taken_back[step] += 1
        if self._taken_back[step] > _MOST_TAKE_BACKS:
            what = f"step {step}: the learners could not read its groups {self._taken_back[step]} times"
            raise LearnerLostError(f"{what}: {error}") from error
        await asyncio.gather(*(self._copy(group) for group in self.groups.put_back() if group.trains))

    async def snapshot(self) -> tuple[StreamState, tuple[FinishedGroup[RolloutGroup], ...]]:
        """What a checkpoint needs: the state of the stream, and the finished groups that no batch has taken.

        Bodies are fetched concurrently. A group that would train and whose body was lost with a node is sampled again.
        """
        fetched = await asyncio.gather(*(self._fetched(group) for group in list(self.groups)))
        finished = tuple(group for group in fetched if group is not None)
        return self.groups.state({group.group_id for group in finished}), finished

    async def stop(self) -> None:
        """Cancels the groups in flight; they stay open in the ledger."""
        await cancel_all(self._tasks)
        self.groups.clear()

    # Groups.

    def _send(self, group: OpenGroup) -> None:
        task = asyncio.create_task(self._collect(group, time.time()), name=f"group {group.group_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _collect(self, group: OpenGroup, sent_at_s: float) -> None:
        try:
            frees_slot = self.groups.finish(group, await self._outcome(group, sent_at_s))
        except Exception as error:
            self._failure = self._failure or error
            self._changed.set()
            return
        if frees_slot or self._awaited in (None, group.group_id):
            self._changed.set()
        self._say_progress()

    async def _outcome(self, group: OpenGroup, sent_at_s: float) -> FinishedGroup[Body] | LossReason:
        algorithm, rollout = self._config.algorithm, self._config.rollout
        is_cut = rollout.straggler.action == "truncate"
        request = RolloutRequest(
            group_id=group.group_id,
            prompt=group.prompt,
            num_samples=rollout.group_size,
            sampling=self._sampling,
            seed=group_seed(self._config.run.seed, group.group_id),
            cut_after_s=rollout.straggler.deadline_s if is_cut else None,
            give_up_after_s=None if is_cut else rollout.straggler.deadline_s,
        )
        try:
            report, body = await self._sample(request)
        except PoisonPromptError as error:
            self._on_event(Event(kind="prompt_set_aside", message=str(error), details=(("group", group.group_id),)))
            return "poison"
        except StragglerError:
            return "straggler"
        for event in environment_events(report, self._environment_failures):
            self._on_event(event)
        scored = score_group(report, algorithm, rollout.max_response_tokens)
        dropped = drop_reason(scored, drop_zero_variance=algorithm.drops_zero_variance)
        return FinishedGroup(scored=scored, body=body, dropped=dropped, sent_at_s=sent_at_s)

    async def _sample(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        """One result; a straggler is sampled again if `rollout.straggler` asks for it."""
        requeues = self._config.rollout.straggler.action == "requeue"
        for _ in range(self._config.rollout.max_attempts - 1 if requeues else 0):
            # The same seed again: with a new seed, each retry would be another chance to draw short responses.
            with contextlib.suppress(StragglerError):
                return await self._pool.generate(request)
        return await self._pool.generate(request)

    async def _copy(self, group: OpenGroup) -> None:
        if (result := await self._fetched(group)) is not None:
            group.outcome = replace(result, body=self._pool.store(result.body))

    async def _fetched(self, group: OpenGroup) -> FinishedGroup[RolloutGroup] | None:
        """The group's result with its body, None if it has no result or the body is lost."""
        outcome = group.outcome
        if not isinstance(outcome, FinishedGroup):
            return None
        try:
            return replace(outcome, body=await self._pool.fetch(outcome.body))
        except BodyLostError as error:
            if outcome.dropped is None:
                then = "it is sampled again"
                self.groups.reopen(group, self._served_version)
                self._send(group)
            else:
                then = f"it would not have trained ({outcome.dropped})"
                group.outcome = outcome.dropped
            self._on_event(Event(kind="group_lost", message=f"{error}; {then}", details=(("group", group.group_id),)))
            return None

    def _waits_for(self) -> str:
        if self._awaited is None:
            waiting = [group for group in self.groups if group.outcome is None][:4]
        else:
            waiting = [self.groups[self._awaited]]
        names = ", ".join(f"group {group.group_id} (prompt {group.prompt.prompt_id})" for group in waiting)
        return f"rollout: a finished group; waits for {names or 'none'}"

    def _say_progress(self) -> None:
        per_step = self._config.rollout.prompts_per_step
        self._on_progress(f"generate {min(self.groups.finished, per_step)}/{per_step} groups")
