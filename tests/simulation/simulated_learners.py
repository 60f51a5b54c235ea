"""Learners of a simulated run: they check what they are given, and fail as the story says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from doubles.loop import make_snapshot
from layout import require_layout
from world import World

from actors.interfaces import (
    AnnouncedWeights,
    Body,
    Broadcast,
    BroadcastGroup,
    SendReport,
    StagedWeights,
    WeightSnapshot,
)
from actors.weights.shared_devices import SharedDevices
from maspo_dist.errors import LearnerLostError, WeightTransferError
from maspo_dist.types import FloatArray, IntArray, TrainingBatch, UpdateReport


class SimulatedLearners:
    """Checks what it is given, against the policy it holds; a checkpoint holds its history."""

    achieved = 0

    def __init__(self, world: World) -> None:
        self._world = world
        self._version = 0
        self._kept: int | None = None

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        self._require_devices()
        world, bound = self._world, self._world.story.config.algorithm.max_policy_age
        read = {group_id: world.read(body) for group_id, body in bodies.items()}
        require_layout(batch, read, world.story.config.learner.micro_batch_tokens)
        for body in read.values():
            oldest = min(min(rollout.token_versions)[0] for rollout in body.rollouts)
            age = self._version - oldest
            assert 0 <= age <= bound, f"group {body.group_id} is {age} versions old, {bound} are allowed"
        await asyncio.sleep(world.rng.uniform(1, 30))
        if world.chance(world.story.faults.learner_loss):
            raise LearnerLostError("learner rank 0: the process behind it died (simulated)")
        self._version += 1
        rollouts = [rollout for group in read.values() for rollout in group.rollouts]
        world.trained[self._version] = sorted(bodies)
        world.heard_tokens[self._version] = sum(rollout.heard_tokens for rollout in rollouts)
        tokens = sum(rollout.behavior_logprobs.size for rollout in rollouts)
        return UpdateReport(step=batch.step, policy_version=self._version, metrics={"learner/tokens": float(tokens)})

    # Implements `RestingLearners` of `actors.controller.turns`.

    async def rest(self) -> None:
        world = self._world
        self._require_devices()
        await asyncio.sleep(world.rng.uniform(0.1, 2))
        if world.chance(world.story.faults.learner_loss):
            raise LearnerLostError("learner rank 0: the process behind it died (simulated)")
        world.learners_hold = False

    async def wake(self) -> None:
        world = self._world
        self._take_devices()
        assert world.shared_version is None, "memory is still shared after the publish"
        await asyncio.sleep(world.rng.uniform(0.1, 2))
        if world.chance(world.story.faults.learner_loss):
            raise LearnerLostError("learner rank 0: the process behind it died (simulated)")

    def _take_devices(self) -> None:
        """An engine that is awake would be short of memory."""
        if self._world.is_colocated:
            awake = [worker.name for worker in self._world.living if worker.is_awake]
            assert not awake, f"learners take the devices of {awake}, which are awake"
            self._world.learners_hold = True

    def _require_devices(self) -> None:
        assert self._world.learners_hold or not self._world.is_colocated, "learners compute on the devices of engines"

    async def export_weights(self, version: int) -> WeightSnapshot | AnnouncedWeights:
        assert version == self._version
        if self._world.story.config.sync.transport in ("collective", "ipc"):
            return AnnouncedWeights(version=version, entries=(), address="here", port=self._world.stores)
        await asyncio.sleep(0.5)
        return make_snapshot(version, 1.0)

    # Implements `actors.rollout.broadcasts.WeightSender`.

    async def send(self, version: int, broadcast: Broadcast) -> SendReport:
        assert version == self._version
        world, group = self._world, broadcast.group
        has_failed = any(earlier.failure for earlier in world.broadcasts_of(group))
        assert not has_failed, f"{group.name} is used again after a broadcast of it failed"
        members = world.broadcast(broadcast)
        if await members.until_all(members.begun):
            await asyncio.sleep(world.rng.uniform(0.1, 3))
            if world.chance(world.story.faults.learner_loss):
                members.fail("the learner died (simulated)")
                raise LearnerLostError("learner rank 0: the process behind it died (simulated)")
            if world.chance(world.story.faults.transfer_failure):
                members.fail("no route to host (simulated)")
            members.is_sent = True
            members.change()
            await members.until_all(members.finished)
        missing = tuple(rank for rank in range(1, 1 + group.engine_ranks) if rank not in members.finished)
        return SendReport(failure=members.failure, missing=missing)

    async def abandon(self, group: BroadcastGroup) -> None:
        for members in self._world.broadcasts_of(group):
            members.fail("abandoned (simulated)")

    # Implements `actors.rollout.ipc.WeightSharer`.

    async def share(self, version: int) -> StagedWeights:
        assert version == self._version
        world = self._world
        assert not world.learners_hold, "weights are shared before the learners leave the devices"
        await asyncio.sleep(world.rng.uniform(0.1, 2))
        if world.chance(world.story.faults.learner_loss):
            raise LearnerLostError("learner rank 0: the process behind it died (simulated)")
        world.shared_version = version
        if world.chance(world.story.faults.transfer_failure):
            # Another rank has shared its memory.
            raise WeightTransferError("no memory is left (simulated)")
        return StagedWeights(version=version, entries=(), source=SharedDevices(devices=(), fingerprint=version))

    async def unshare(self) -> None:
        self._world.shared_version = None
        await asyncio.sleep(0.1)

    # Implements `interfaces.WeightKeeper`.

    async def keep(self, version: int) -> None:
        assert version == self._version
        await asyncio.sleep(0.5)
        self._kept = version

    async def store(self, version: int) -> None:
        await self.keep(version)

    async def stored(self, version: int) -> WeightSnapshot | None:
        kept = self._kept
        # Long enough for the learners to have another turn meanwhile, as with a large model.
        await asyncio.sleep(60.0 if version % 2 else 0.5)
        return make_snapshot(version, 1.0) if version == kept else None

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        self._require_devices()
        return [np.full(sequence.size - 1, -1.0, np.float32) for sequence in sequences]

    async def save(self, folder: Path) -> None:
        await asyncio.sleep(self._world.rng.uniform(0.1, 5))
        folder.mkdir()  # noqa: ASYNC240 (no other task to hold up)
        (folder / "trained").write_text(json.dumps(list(self._world.trained.items())))

    async def load(self, folder: Path) -> None:
        self._world.trained = dict(json.loads((folder / "trained").read_text()))
        self._version = max(self._world.trained, default=0)

    async def restart(self) -> None:
        self._take_devices()
        await asyncio.sleep(self._world.rng.uniform(5, 60))
        self._world.stores += 1
        self._world.shared_version = None
        self._kept = None
        self._world.trained = {}
        self._version = 0
