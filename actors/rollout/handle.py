"""The pool's side of a rollout actor: every call to the actor goes through Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.interfaces import ActorProcess, Body, PublishReport, WeightUpdate
from actors.ray.errors import translate_ray_errors
from maspo_dist.types import GroupReport, RolloutRequest


class RayRolloutWorker:
    """Implements `interfaces.RolloutWorkerHandle`; the pool sets the deadlines."""

    def __init__(self, name: str, handle: ActorHandle[Any], release: Callable[[], None]) -> None:
        """`release` frees the worker's resources in the cluster."""
        self.name = name
        self._handle = handle
        self._release = release
        self._node_id = ""

    async def start(self) -> ActorProcess:
        """Starts the engine."""
        with translate_ray_errors(f"{self.name}: start"):
            process: ActorProcess = await self._handle.start.remote()
        self._node_id = process.node_id
        return process

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        """The report and a reference to the group, which stays in the object store.

        Cancelling the call cancels its requests in the engine.
        """
        report_ref, body = self._handle.generate.options(num_returns=2).remote(request)
        try:
            with translate_ray_errors(self.name):
                report: GroupReport = await report_ref
        except asyncio.CancelledError:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(report_ref)
            raise
        return report, body

    async def publish(self, update: WeightUpdate) -> PublishReport:
        with translate_ray_errors(self.name):
            report: PublishReport = await self._handle.publish.remote(update)
        return report

    async def ping(self) -> int:
        with translate_ray_errors(self.name):
            tokens: int = await self._handle.ping.remote()
        return tokens

    async def is_gone_with_its_node(self) -> bool:
        with translate_ray_errors("the cluster: its nodes"):
            nodes = await asyncio.to_thread(ray.nodes)
        return all(node["NodeID"] != self._node_id for node in nodes if node["Alive"])

    async def stop(self) -> None:
        with translate_ray_errors(self.name):
            await self._handle.stop.remote()

    def kill(self) -> None:
        ray.kill(self._handle, no_restart=True)
        self._release()
