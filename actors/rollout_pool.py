"""The rollout workers as one: each request goes to the least loaded, each publish to all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from actors.boundaries import Body, ProbeSequence, PublishReport, WeightSnapshot
from actors.deadline import within
from actors.rollout_worker import WorkerPublish
from maspo_dist.types import FloatArray, GroupReport, RolloutGroup, RolloutRequest


@dataclass(slots=True)
class _Member:
    name: str
    handle: ActorHandle[Any]
    in_flight: int = 0


class RayRolloutPool:
    """Implements `boundaries.RolloutPool` over rollout actors that have been started."""

    def __init__(
        self, handles: Sequence[ActorHandle[Any]], generate_timeout_s: float, publish_timeout_s: float
    ) -> None:
        self._members = [_Member(f"rollout worker {index}", handle) for index, handle in enumerate(handles)]
        self._generate_timeout_s = generate_timeout_s
        self._publish_timeout_s = publish_timeout_s

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        """The report and a reference to the group itself, which stays in the object store."""
        member = min(self._members, key=lambda member: member.in_flight)
        member.in_flight += request.num_samples
        try:
            report_ref, body = member.handle.generate.options(num_returns=2).remote(request)
            what = f"{member.name}: group {request.group_id} (prompt {request.prompt.prompt_id})"
            report: GroupReport = await within(self._generate_timeout_s, what, report_ref)
        finally:
            member.in_flight -= request.num_samples
        return report, body

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> PublishReport:
        """Hands `snapshot` to every worker side by side. Raises WeightSyncError if one fails the proof."""
        parts: list[WorkerPublish] = await asyncio.gather(
            *(
                within(
                    self._publish_timeout_s,
                    f"{member.name}: publish of policy version {snapshot.version}",
                    member.handle.publish.remote(snapshot, probes, expected),
                )
                for member in self._members
            )
        )
        return PublishReport(
            version=snapshot.version,
            max_logprob_gap=max(part.max_logprob_gap for part in parts),
            transfer_s=max(part.transfer_s for part in parts),
            pause_s=max(part.pause_s for part in parts),
        )

    async def fetch(self, body: Body) -> RolloutGroup:
        group: RolloutGroup = await within(self._generate_timeout_s, "object store: a rollout group", body)
        return group

    async def stop(self) -> None:
        """Ends the engines' processes; the actors themselves end with the cluster."""
        await asyncio.gather(
            *(within(30.0, f"{member.name}: stop", member.handle.stop.remote()) for member in self._members),
            return_exceptions=True,
        )
