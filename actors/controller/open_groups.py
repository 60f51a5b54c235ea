"""The set of open groups: groups that are admitted and that no batch has taken.

    admit ──► in flight ──finish──► finished ──take──► batch
                  ▲                    │  ▲              │
                  └──────reopen────────┘  └──put_back────┘      (a node was lost with the bodies of groups)

Bookkeeping only, without pool, tasks or clock. `maspo_dist.flow.admission` decides when to admit and what to take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.interfaces import Body
from maspo_dist.config import TrainConfig
from maspo_dist.data.cursor import CursorState
from maspo_dist.flow.admission import Waiting, open_slots, select_batch
from maspo_dist.flow.ledger import Ledger
from maspo_dist.runs.checkpoint import PendingGroup, StreamState
from maspo_dist.types import DropReason, FinishedGroup, LossReason, Prompt, RolloutGroup


class PromptSource(Protocol):
    """See `PromptCursor`."""

    @property
    def state(self) -> CursorState: ...
    def take(self, count: int) -> Sequence[Prompt]: ...
    def at(self, state: CursorState) -> Prompt: ...


Outcome = FinishedGroup[Body] | LossReason | DropReason


@dataclass(slots=True, eq=False)
class OpenGroup:
    """A group that no batch has taken.

    born       policy version at dispatch; −1 for a restored group that is not sent yet
    refilled   another group was admitted in its slot, because it will not train
    outcome    the result, or why there is no result; None while the group is in flight
    """

    group_id: int
    prompt: Prompt
    drawn_at: CursorState
    born: int
    refilled: bool = False
    outcome: Outcome | None = None

    @property
    def finished(self) -> bool:
        return self.outcome is not None

    @property
    def takes_slot(self) -> bool:
        return not self.refilled

    @property
    def trains(self) -> bool:
        return isinstance(self.outcome, FinishedGroup) and self.outcome.dropped is None


@dataclass(eq=False)
class OpenGroups:
    """Owns every group between its admission and its batch, in the order of admission. `batches` are left to take."""

    config: TrainConfig
    prompts: PromptSource
    ledger: Ledger
    batches: int

    def __post_init__(self) -> None:
        self._next_group = 0
        self._groups: dict[int, OpenGroup] = {}
        #: Groups without an outcome.
        self.in_flight = 0
        #: Slots that were refilled since the last batch.
        self._refills = 0
        #: The groups of the last batch, and the refills counted until then.
        self._taken: tuple[list[OpenGroup], int] = ([], 0)

    def __iter__(self) -> Iterator[OpenGroup]:
        return iter(self._groups.values())

    def __getitem__(self, group_id: int) -> OpenGroup:
        return self._groups[group_id]

    @property
    def finished(self) -> int:
        return len(self._groups) - self.in_flight

    def admit(self, policy_version: int) -> list[OpenGroup]:
        """Admits groups as far as the age bound and the batches that are left allow; returns the new groups."""
        algorithm, rollout = self.config.algorithm, self.config.rollout
        slots = sum(group.takes_slot for group in self)
        allowed = open_slots(slots, rollout.prompts_per_step, algorithm.max_policy_age, rollout.over_sampling)
        needed = self.batches * rollout.prompts_per_step - slots
        admitted = []
        for _ in range(min(allowed, needed)):
            drawn_at = self.prompts.state
            [prompt] = self.prompts.take(1)
            admitted.append(OpenGroup(self._next_group, prompt, drawn_at, policy_version))
            self._next_group += 1
            self._add(admitted[-1])
        return admitted

    def finish(self, group: OpenGroup, outcome: Outcome) -> bool:
        """Enters the outcome; returns whether the group frees its slot, so that another group may be admitted."""
        self._enter(group, outcome)
        sampling = self.config.algorithm.dynamic_sampling
        most = int(sampling.max_refill_ratio * self.config.rollout.prompts_per_step)
        is_dropped = isinstance(outcome, FinishedGroup) and outcome.dropped is not None
        if sampling.zero_variance != "refill" or not is_dropped or group.refilled or self._refills >= most:
            return False
        group.refilled = True
        self._refills += 1
        return True

    def reopen(self, group: OpenGroup, policy_version: int) -> None:
        """The result of the group is lost: it is in flight again, under `policy_version`."""
        self.ledger.reopen(group.group_id)
        group.outcome = None
        group.born = policy_version
        self.in_flight += 1

    def select(self, policy_version: int) -> list[int] | Waiting:
        """The ids of the next batch's groups, or what it waits for."""
        return select_batch(
            self,
            policy_version,
            groups_per_step=self.config.rollout.prompts_per_step,
            max_policy_age=self.config.algorithm.max_policy_age,
            order=self.config.rollout.batch_order,
        )

    def take(self, group_ids: Sequence[int]) -> list[OpenGroup]:
        """Removes the groups of a batch."""
        taken = [self._groups.pop(group_id) for group_id in group_ids]
        self._taken, self._refills = (taken, self._refills), 0
        self.batches -= 1
        return taken

    def put_back(self) -> list[OpenGroup]:
        """Undoes the last `take`: its groups are open again, and returned."""
        (taken, refills), self._taken = self._taken, ([], 0)
        groups = sorted((*taken, *self), key=lambda group: group.group_id)
        self._groups = {group.group_id: group for group in groups}
        self._refills += refills
        self.batches += 1
        return taken

    def clear(self) -> None:
        """Forgets all groups; they stay open in the ledger."""
        self._groups.clear()
        self.in_flight = 0

    def state(self, finished: Collection[int]) -> StreamState:
        """What a checkpoint needs beside the bodies of the groups in `finished`."""
        return StreamState(
            next_group=self._next_group,
            cursor=self.prompts.state,
            pending=tuple(
                PendingGroup(
                    group_id=group.group_id,
                    drawn_at=group.drawn_at,
                    # A group that finished after its body was asked for is sampled again, in a slot of its own.
                    refilled=group.refilled and (group.group_id in finished or isinstance(group.outcome, str)),
                    lost=group.outcome if isinstance(group.outcome, str) else None,
                )
                for group in self
            ),
            refills=self._refills,
        )

    def restore(
        self, state: StreamState, finished: Sequence[FinishedGroup[RolloutGroup]], store: Callable[[RolloutGroup], Body]
    ) -> None:
        """Opens the groups of a checkpoint; `store` puts a body into the object store."""
        results = {result.group_id: result for result in finished}
        self._next_group, self._refills = state.next_group, state.refills
        for pending in state.pending:
            prompt = self.prompts.at(pending.drawn_at)
            group = OpenGroup(pending.group_id, prompt, pending.drawn_at, born=-1, refilled=pending.refilled)
            self._add(group)
            if pending.lost is not None:
                self._enter(group, pending.lost)
            if (result := results.get(group.group_id)) is not None:
                group.born = result.oldest_version
                self._enter(group, replace(result, body=store(result.body), sent_at_s=None))

    def _add(self, group: OpenGroup) -> None:
        self.ledger.admit(group.group_id, group.prompt.prompt_id)
        self._groups[group.group_id] = group
        self.in_flight += 1

    def _enter(self, group: OpenGroup, outcome: Outcome) -> None:
        self.ledger.finish(group.group_id)
        group.outcome = outcome
        self.in_flight -= 1
