"""All learner ranks as one: every call goes to all of them, under a deadline and a name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle

from actors.interfaces import Body, ProbeSequence, WeightSnapshot
from actors.ray.waits import within
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import ActorDiedError, BodyLostError, DeadlineError, LearnerLostError, MaspoError
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import FloatArray, TrainingBatch, UpdateReport

T = TypeVar("T")
MakeLearners = Callable[[], Awaitable[list[ActorHandle[Any]]]]

#: Ray tells of a process's death later than a connection to it breaks.
_NOTICE_S = 10.0


class RayLearnerGroup:
    """The `LearnerGroup` of actors.interfaces over Ray actors of `Learner`, rank i at place i.

    A rank's failure ends the call without waiting for the others, which may be stuck in a collective
    that will never complete. LearnerLostError names the ranks that are gone or did not answer, whatever
    their peers made of it; what a rank raised itself is raised here as it was.
    """

    def __init__(self, make: MakeLearners, config: ClusterConfig) -> None:
        """`make` starts as many actors as there are ranks and returns them once all have met."""
        self._make = make
        self._learners: list[ActorHandle[Any]] = []
        self._config = config
        self._policy_version = 0

    async def start(self) -> None:
        """Brings all ranks up with the weights of `model.path`. Raises what a rank dies of."""
        self._learners = await self._make()
        self._policy_version = 0

    async def restart(self) -> None:
        """Ends what is left of the group and starts another. Raises LearnerLostError when it does not come up."""
        await self.stop()
        try:
            await self.start()
        except (ActorDiedError, DeadlineError) as error:
            raise LearnerLostError(str(error)) from error

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        """Trains on `batch`; `bodies` holds at least the groups it refers to, by group_id.

        Raises BodyLostError where one of them cannot be read any more; nothing has been trained then.
        """
        if len(batch.shards) != len(self._learners):
            raise ValueError(f"batch is laid out for {len(batch.shards)} ranks, there are {len(self._learners)}")
        needed = [
            dict.fromkeys(ref.group_id for mini in shard for micro in mini for ref in micro) for shard in batch.shards
        ]
        step, timeout_s = f"step {batch.step}", self._config.update_timeout_s
        groups = [tuple(bodies[group_id] for group_id in ids) for ids in needed]
        await self._receive(step, timeout_s, groups)
        arguments = [(shard, batch.loss_tokens, batch.loss_sequences) for shard in batch.shards]
        metrics = await self._all("update", step, timeout_s, arguments)
        self._policy_version += 1
        return UpdateReport(step=batch.step, policy_version=self._policy_version, metrics=metrics[0])

    async def export_weights(self, version: int) -> WeightSnapshot:
        """Rank 0's whole weights in the object store, marked `version`."""
        arguments = [(version,)] * len(self._learners)
        exported = await self._all("export_weights", f"version {version}", self._config.publish_timeout_s, arguments)
        snapshot: WeightSnapshot = exported[0]
        return snapshot

    async def probe(self, sequences: Sequence[ProbeSequence]) -> list[FloatArray]:
        """Raw log-probabilities of tokens 1 … L−1 of each sequence, temperature 1."""
        arguments = [(list(sequences),)] * len(self._learners)
        answers = await self._all("probe", f"{len(sequences)} sequences", self._config.publish_timeout_s, arguments)
        logprobs: list[FloatArray] = answers[0]
        return logprobs

    async def frozen_logprobs(self) -> list[ResponseLogprobs]:
        """logπ_old and logπ_ref of the last batch, over all ranks; only where steps are recorded."""
        arguments: list[tuple[Any, ...]] = [()] * len(self._learners)
        by_rank = await self._all("frozen_logprobs", "last batch", self._config.update_timeout_s, arguments)
        return [entry for part in by_rank for entry in part]

    async def save(self, folder: Path) -> None:
        """Checkpoint into `folder`, which all ranks can reach."""
        await self._all("save", str(folder), self._config.save_timeout_s, [(folder,)] * len(self._learners))

    async def load(self, folder: Path) -> None:
        """What `save` left in `folder`; the policy version goes on from there."""
        versions = await self._all("load", str(folder), self._config.save_timeout_s, [(folder,)] * len(self._learners))
        self._policy_version = versions[0]

    async def stop(self) -> None:
        """Ends the processes; waits for nothing, since a rank may be stuck in a collective."""
        learners, self._learners = self._learners, []
        for learner in learners:
            ray.kill(learner, no_restart=True)

    async def _receive(self, step: str, timeout_s: float, groups: Sequence[tuple[Body, ...]]) -> None:
        """Hands each rank its groups. Raises BodyLostError where one cannot be read: the ranks are well."""
        try:
            await self._call("receive", step, timeout_s, groups)
        except BodyLostError:
            raise
        except (ActorDiedError, DeadlineError) as error:
            raise LearnerLostError(str(error)) from error

    async def _all(
        self, method: str, subject: str, timeout_s: float, arguments: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """`method` on every rank with its arguments; results by rank."""
        try:
            return await self._call(method, subject, timeout_s, arguments)
        except (ActorDiedError, DeadlineError) as error:
            raise LearnerLostError(str(error)) from error

    async def _call(
        self, method: str, subject: str, timeout_s: float, arguments: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        calls = [
            getattr(learner, method).remote(*args) for learner, args in zip(self._learners, arguments, strict=True)
        ]
        return await by_rank(calls, f"{method} ({subject})", timeout_s)


async def by_rank(calls: Sequence[Awaitable[T]], what: str, timeout_s: float) -> list[T]:
    """The results of one call on each rank. The first failure ends it, but for one that another rank's death
    explains: then the others are given `_NOTICE_S`.

    Raises ActorDiedError naming a rank that is gone, else what the first of those that failed raised, and
    DeadlineError naming every rank that is silent for `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    tasks = [
        # The deadline below is the one that counts: it can name every silent rank, not only the first.
        asyncio.ensure_future(within(2 * timeout_s, f"learner rank {rank}: {what}", call))
        for rank, call in enumerate(calls)
    ]
    try:
        _, silent = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        noticed_by_s = loop.time() + _NOTICE_S
        while silent and (errors := _errors(tasks)) and all(_may_be_a_lost_peer(error) for error in errors):
            left_s = noticed_by_s - loop.time()
            if left_s <= 0:
                break
            _, silent = await asyncio.wait(silent, timeout=left_s, return_when=asyncio.FIRST_EXCEPTION)
        if errors := _errors(tasks):
            raise next((error for error in errors if isinstance(error, ActorDiedError)), errors[0])
        if silent:
            ranks = ", ".join(str(rank) for rank, task in enumerate(tasks) if task in silent)
            raise DeadlineError(f"learner rank {ranks}: {what}: no answer within {timeout_s:g} s")
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _errors(tasks: Sequence[asyncio.Task[Any]]) -> list[BaseException]:
    """What tasks have raised so far, by rank."""
    return [error for task in tasks if task.done() and (error := task.exception()) is not None]


def _may_be_a_lost_peer(error: BaseException) -> bool:
    """Gloo and NCCL raise plain errors in whoever waits for a process that is gone."""
    return not isinstance(error, MaspoError | OSError)
