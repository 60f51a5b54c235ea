"""All learner ranks as one object: each call goes to every rank, with a name and a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle

from actors.interfaces import (
    AnnouncedWeights,
    Body,
    Broadcast,
    BroadcastGroup,
    SendReport,
    StagedWeights,
    WeightSnapshot,
)
from actors.ray.errors import reason_of
from actors.ray.on_node import becomes_true
from actors.ray.waits import cancel_all, within
from actors.weights.shared_devices import of_all_ranks
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import ActorDiedError, BodyLostError, DeadlineError, LearnerLostError, MaspoError
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import FloatArray, IntArray, MiniBatch, TrainingBatch, UpdateReport

T = TypeVar("T")
MakeLearners = Callable[[], Awaitable[list[ActorHandle[Any]]]]

#: Connections to a dead rank break before Ray reports its death; this is how long the report may take.
_NOTICE_S = 10.0
#: Longest that a rank takes to close its engine.
_CLOSE_S = 30.0


class RayLearnerGroup:
    """Implements `LearnerGroup`, `WeightSender` and `WeightSharer` with one Ray actor of `Learner` per rank.

    A rank's failure ends the call without waiting for the other ranks, which may hang in a collective that never
    completes. A lost or silent rank raises LearnerLostError, which names it even if the others failed first; an
    error that a rank raised itself is raised here unchanged.
    """

    def __init__(
        self, make: MakeLearners, config: ClusterConfig, sequence_parallel: int = 1, *, announces: bool = False
    ) -> None:
        """`make` starts all ranks and returns them, in order, when they have joined each other.

        `sequence_parallel` neighbouring ranks get the same shard of a batch. `announces` says whether weights are
        announced, and go straight to engines, instead of exported to the object store.
        """
        self._make = make
        self._sequence_parallel = sequence_parallel
        self._learners: list[ActorHandle[Any]] = []
        self._config = config
        self._announces = announces
        self._policy_version = 0
        self._micro_batches: dict[int, int] = {}

    @property
    def achieved(self) -> int:
        """Micro-batches that all ranks have computed, by the last look of `watch`."""
        return sum(self._micro_batches.values())

    async def watch(self) -> None:
        """Runs until cancelled: twice per `heartbeat_s`, reads how many micro-batches each rank has computed."""
        while True:
            await asyncio.sleep(self._config.heartbeat_s / 2)
            await asyncio.gather(*(self._look(rank, learner) for rank, learner in enumerate(self._learners)))

    async def _look(self, rank: int, learner: ActorHandle[Any]) -> None:
        # The call in progress notices a rank that is lost.
        with contextlib.suppress(ActorDiedError, DeadlineError):
            self._micro_batches[rank] = await within(
                self._config.heartbeat_timeout_s, f"learner rank {rank}: its progress", learner.micro_batches.remote()
            )

    async def start(self) -> None:
        """Starts all ranks with the weights of `model.path`. Raises whatever makes a rank fail."""
        self._learners = await self._make()
        self._policy_version = 0

    async def restart(self) -> None:
        """Ends the remaining ranks and starts all again. Raises LearnerLostError when that fails, whatever the cause.

        What has started once can start again: a killed rank may hold its port and its memory for a while.
        """
        await self.stop()
        try:
            await self.start()
        except Exception as error:
            raise LearnerLostError(f"the learner group does not start again: {reason_of(error)}") from error

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        """Trains on `batch`; `bodies` holds at least the groups that the batch refers to, by group_id.

        Raises BodyLostError, before anything is trained, when a rank cannot read one of them.
        """
        shards = [shard for shard in batch.shards for _ in range(self._sequence_parallel)]
        if len(shards) != len(self._learners):
            raise ValueError(f"batch is laid out for {len(shards)} ranks, there are {len(self._learners)}")
        step, timeout_s = f"step {batch.step}", self._config.update_timeout_s
        await self._each("receive", step, timeout_s, [_bodies_of(shard, bodies) for shard in shards])
        arguments = [(shard, batch.loss_tokens, batch.loss_sequences) for shard in shards]
        metrics = await self._each("update", step, timeout_s, arguments)
        self._policy_version += 1
        return UpdateReport(step=batch.step, policy_version=self._policy_version, metrics=metrics[0])

    async def export_weights(self, version: int) -> WeightSnapshot | AnnouncedWeights:
        """Rank 0's full weights, stamped `version`: in the object store, or announced."""
        subject, timeout_s = f"version {version}", self._config.publish_timeout_s
        if self._announces:
            announced: AnnouncedWeights = await self._of_rank_0("announce_weights", subject, version, timeout_s)
            return announced
        exported = await self._all("export_weights", subject, timeout_s, version)
        snapshot: WeightSnapshot = exported[0]
        return snapshot

    # Implements `actors.rollout.broadcasts.WeightSender`.

    async def send(self, version: int, broadcast: Broadcast) -> SendReport:
        # A rank passes three deadlines at most; only a rank that hangs takes longer.
        longest_s = 4 * broadcast.group.deadline_s
        what = f"version {version} to {broadcast.group.name}"
        sending = asyncio.ensure_future(self._all("send_weights", what, longest_s + _NOTICE_S, broadcast))
        try:
            _, silent = await asyncio.wait([sending], timeout=longest_s)
            if silent:
                await self.abandon(broadcast.group)
            reports: list[SendReport] = await sending
        finally:
            await cancel_all([sending])
        return reports[0]

    async def abandon(self, group: BroadcastGroup) -> None:
        await self._of_rank_0("abandon_broadcast", group.name, group, self._config.heartbeat_timeout_s)

    # Implements `actors.rollout.ipc.WeightSharer`.

    async def share(self, version: int) -> StagedWeights:
        subject, timeout_s = f"version {version}", self._config.publish_timeout_s
        return of_all_ranks(await self._all("share_weights", subject, timeout_s, version))

    async def unshare(self) -> None:
        await self._all("unshare_weights", "end of the publish", self._config.publish_timeout_s)

    # Implements `interfaces.WeightKeeper`.

    async def keep(self, version: int) -> None:
        await self._all("keep_weights", f"version {version}", self._config.publish_timeout_s, version)

    async def store(self, version: int) -> None:
        await self._all("store_weights", f"version {version}", self._config.publish_timeout_s, version)

    async def stored(self, version: int) -> WeightSnapshot | None:
        subject, timeout_s = f"version {version}", self._config.publish_timeout_s
        snapshot: WeightSnapshot | None = await self._of_rank_0("stored_weights", subject, version, timeout_s)
        return snapshot

    async def rest(self) -> None:
        """See `RestingLearners` of `actors.controller.turns`."""
        await self._all("rest", "engines' turn", self._config.publish_timeout_s)

    async def wake(self) -> None:
        """Takes the devices again."""
        await self._all("wake", "learners' turn", self._config.publish_timeout_s)

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """Raw log-probabilities of tokens 1 … L−1 of each sequence, temperature 1."""
        subject, timeout_s = f"{len(sequences)} sequences", self._config.publish_timeout_s
        logprobs: list[list[FloatArray]] = await self._all("probe", subject, timeout_s, list(sequences))
        return logprobs[0]

    async def frozen_logprobs(self) -> list[ResponseLogprobs]:
        """logπ_old and logπ_ref of the last batch, from all ranks; only when steps are recorded."""
        parts = await self._all("frozen_logprobs", "last batch", self._config.update_timeout_s)
        return [entry for part in parts for entry in part]

    async def save(self, folder: Path) -> None:
        """Writes a checkpoint into `folder`. Raises OSError when this process does not see a file that a rank wrote."""
        files = await self._all("save", str(folder), self._config.save_timeout_s, folder)
        await asyncio.to_thread(_require_files, folder, files)

    async def load(self, folder: Path) -> None:
        """Restores what `save` wrote, policy version included."""
        versions = await self._all("load", str(folder), self._config.save_timeout_s, folder)
        self._policy_version = versions[0]

    async def release(self) -> list[ActorHandle[Any]]:
        """Closes every rank's engine and returns the processes, which are no longer of this group."""
        await self._all("stop", "end of the run", _CLOSE_S)
        learners, self._learners = self._learners, []
        return learners

    async def stop(self) -> None:
        """Kills the processes at once, since a rank may hang in a collective."""
        learners, self._learners = self._learners, []
        for learner in learners:
            ray.kill(learner, no_restart=True)

    async def _of_rank_0(self, method: str, subject: str, argument: object, timeout_s: float) -> Any:
        """The answer of rank 0 to a call that is not collective."""
        what = f"learner rank 0: {method} ({subject})"
        if not self._learners:
            raise LearnerLostError(f"{what}: the learners do not run")
        try:
            call = getattr(self._learners[0], method).remote(argument)
            return await within(timeout_s, what, call)
        except (ActorDiedError, DeadlineError) as error:
            raise LearnerLostError(str(error)) from error

    async def _all(self, method: str, subject: str, timeout_s: float, *arguments: object) -> list[Any]:
        """Calls `method` on every rank with the same arguments; results by rank."""
        return await self._each(method, subject, timeout_s, [arguments] * len(self._learners))

    async def _each(
        self, method: str, subject: str, timeout_s: float, arguments: Sequence[tuple[object, ...]]
    ) -> list[Any]:
        """Calls `method` on every rank with its own arguments; results by rank.

        BodyLostError is raised unchanged: an argument was lost, but no rank.
        """
        calls = [
            getattr(learner, method).remote(*args) for learner, args in zip(self._learners, arguments, strict=True)
        ]
        try:
            return await by_rank(calls, f"{method} ({subject})", timeout_s)
        except BodyLostError:
            raise
        except (ActorDiedError, DeadlineError) as error:
            raise LearnerLostError(str(error)) from error


def _require_files(folder: Path, files: Sequence[Sequence[str]]) -> None:
    """Raises OSError when one of each rank's `files` does not become visible in `folder`."""
    for rank, names in enumerate(files):
        for name in names:
            if not becomes_true((folder / name).exists):
                raise FileNotFoundError(
                    f"{folder} lacks {name}, which learner rank {rank} wrote on its node: "
                    "set run.dir to a folder on storage that all nodes share"
                )


def _bodies_of(shard: tuple[MiniBatch, ...], bodies: Mapping[int, Body]) -> tuple[Body, ...]:
    """The groups that one rank trains on, each once."""
    return tuple(bodies[group_id] for group_id in dict.fromkeys(r.group_id for mini in shard for m in mini for r in m))


async def by_rank(calls: Sequence[Awaitable[T]], what: str, timeout_s: float) -> list[T]:
    """The results of one call per rank, in order. Returns on the first failure.

    A plain error of a collective may be the echo of another rank's death; then waits up to `_NOTICE_S` for the
    real cause. Raises ActorDiedError naming a dead rank, else the error of the first failed rank, else DeadlineError
    naming every rank that is silent for `timeout_s` seconds.
    """
    loop = asyncio.get_running_loop()
    tasks = [
        # Not the real deadline: that is `timeout_s` below, whose error names every silent rank.
        asyncio.ensure_future(within(2 * timeout_s, f"learner rank {rank}: {what}", call))
        for rank, call in enumerate(calls)
    ]
    try:
        _, silent = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        noticed_by_s = loop.time() + _NOTICE_S
        while silent and (errors := _errors(tasks)) and all(_may_be_an_echo(error) for error in errors):
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
        await cancel_all(tasks)


def _errors(tasks: Sequence[asyncio.Task[Any]]) -> list[BaseException]:
    """Errors that tasks have raised so far, by rank."""
    return [error for task in tasks if task.done() and (error := task.exception()) is not None]


def _may_be_an_echo(error: BaseException) -> bool:
    """Gloo and NCCL raise plain errors in every rank that waits for a dead rank."""
    return not isinstance(error, MaspoError | OSError)
