"""The generation side of the loop: prompts in, scored groups out, in the order of admission.

    PromptCursor ──admit──► RolloutPool.generate (one task a group) ──► finished ──take──► batch

One code path for any `max_policy_age`: `pump` admits what `Admission` allows, and batches take groups in
the order in which they were admitted, so that a short response is never preferred over a long one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actors.boundaries import Body, RolloutPool
from actors.scoring import score_group
from maspo_dist.config import TrainConfig
from maspo_dist.data.cursor import CursorState
from maspo_dist.data.selection import DropReason, drop_reason
from maspo_dist.errors import DeadlineError, PolicyAgeError
from maspo_dist.flow.admission import Admission
from maspo_dist.flow.ledger import Ledger
from maspo_dist.types import Prompt, RolloutRequest, Sampling, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedGroup:
    """A finished group, where its body lies, and why it will not train, if so."""

    group_id: int
    scored: ScoredGroup
    body: Body
    dropped: DropReason | None


class PromptSource(Protocol):
    """Where training prompts come from, in order; see `PromptCursor`."""

    @property
    def state(self) -> CursorState: ...

    def take(self, count: int) -> Sequence[Prompt]: ...


def group_seed(run_seed: int, group_id: int) -> int:
    """Seed of a group's first sample; apart for each group, the same in every run of `run_seed`."""
    return int(np.random.SeedSequence([run_seed, group_id]).generate_state(1)[0]) >> 1


class GroupStream:
    """Owns admission, the ledger, and every group between its prompt and its batch."""

    def __init__(
        self,
        config: TrainConfig,
        pool: RolloutPool,
        prompts: PromptSource,
        ledger: Ledger,
        on_progress: Callable[[str], None],
        first_group: int = 0,
    ) -> None:
        self._config = config
        self._pool = pool
        self._prompts = prompts
        self._ledger = ledger
        self._on_progress = on_progress
        sampling = config.algorithm.dynamic_sampling
        self._refill = sampling.zero_variance == "refill"
        self._drop_zero_variance = sampling.zero_variance != "keep"
        per_step = config.rollout.prompts_per_step
        self._admission = Admission(
            groups_per_step=per_step,
            max_policy_age=config.algorithm.max_policy_age,
            max_refills_per_step=int(sampling.max_refill_ratio * per_step) if self._refill else 0,
        )
        self._sampling = Sampling(
            temperature=config.rollout.temperature, max_response_tokens=config.rollout.max_response_tokens
        )
        self._next_group = first_group
        self._queue: deque[int] = deque()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._finished: dict[int, CollectedGroup] = {}
        self._refilled: set[int] = set()
        self._drawn_at: dict[int, CursorState] = {}
        self._changed = asyncio.Event()

    def pump(self) -> None:
        """Admits groups as far as the age bound allows; call it whenever that may have changed."""
        for _ in range(self._admission.open_slots()):
            self._admission.admit()
            drawn_at = self._prompts.state
            [prompt] = self._prompts.take(1)
            group_id, self._next_group = self._next_group, self._next_group + 1
            self._drawn_at[group_id] = drawn_at
            self._ledger.admit(group_id, prompt.prompt_id)
            self._queue.append(group_id)
            request = RolloutRequest(
                group_id=group_id,
                attempt=0,
                prompt=prompt,
                num_samples=self._config.rollout.group_size,
                sampling=self._sampling,
                seed=group_seed(self._config.run.seed, group_id),
            )
            task = asyncio.create_task(self._collect(request), name=f"group {group_id}")
            task.add_done_callback(lambda _: self._changed.set())
            self._tasks[group_id] = task

    async def take(self, policy_version: int) -> list[CollectedGroup]:
        """The next batch's groups, dropped ones included, in the order of admission.

        Raises DeadlineError naming the prompts that everything waits for, PolicyAgeError if a token is
        older than allowed, and whatever ended a group's task.
        """
        deadline_s = self._config.cluster.generate_timeout_s
        self.pump()
        while (batch := self._next_batch()) is None:
            self._changed.clear()
            self._say_progress()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline_s)
            except TimeoutError:
                waiting = ", ".join(sorted(task.get_name() for task in self._tasks.values())[:4])
                raise DeadlineError(
                    f"rollout: no group finished within {deadline_s:g} s; waits for {waiting}"
                ) from None
            self._raise_failed()
            self.pump()
        for group in batch:
            self._queue.remove(group.group_id)
            del self._finished[group.group_id]
            del self._drawn_at[group.group_id]
        self._admission.consume()
        self._require_young(batch, policy_version)
        return batch

    async def stop(self) -> None:
        """Cancels what is in flight; it stays open in the ledger."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    @property
    def resume_point(self) -> tuple[int, CursorState]:
        """The first group that no batch has consumed, and where its prompt is drawn."""
        if not self._queue:
            return self._next_group, self._prompts.state
        return self._queue[0], self._drawn_at[self._queue[0]]

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def _collect(self, request: RolloutRequest) -> None:
        report, body = await self._pool.generate(request)
        scored = score_group(report, self._config.algorithm, self._config.rollout.max_response_tokens)
        dropped = drop_reason(scored, drop_zero_variance=self._drop_zero_variance)
        self._ledger.finish(request.group_id)
        self._finished[request.group_id] = CollectedGroup(
            group_id=request.group_id, scored=scored, body=body, dropped=dropped
        )
        if dropped is not None and self._refill and self._admission.refill():
            self._refilled.add(request.group_id)
        del self._tasks[request.group_id]

    def _next_batch(self) -> list[CollectedGroup] | None:
        """Finished groups from the head of the queue until `prompts_per_step` slots are filled."""
        batch: list[CollectedGroup] = []
        slots = 0
        for group_id in self._queue:
            group = self._finished.get(group_id)
            if group is None:
                return None
            batch.append(group)
            slots += group_id not in self._refilled
            if slots == self._config.rollout.prompts_per_step:
                return batch
        return None

    def _require_young(self, batch: list[CollectedGroup], policy_version: int) -> None:
        bound = self._config.algorithm.max_policy_age
        for group in batch:
            oldest = int(group.scored.report.oldest_version.min())
            if policy_version - oldest > bound:
                raise PolicyAgeError(
                    f"group {group.group_id} holds tokens of policy version {oldest}, {policy_version - oldest} "
                    f"behind the learner's {policy_version}; algorithm.max_policy_age is {bound}"
                )

    def _raise_failed(self) -> None:
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                error = task.exception()
                if error is not None:
                    raise error

    def _say_progress(self) -> None:
        per_step = self._config.rollout.prompts_per_step
        done = sum(group_id in self._finished for group_id in list(self._queue)[:per_step])
        self._on_progress(f"generate {done}/{per_step} groups")
