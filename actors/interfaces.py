"""What the controller asks of the pools, as Protocols; tests put hand-written doubles behind them.

`Body` stands for a `RolloutGroup` that lies in the object store: the controller hands it on, never opens it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from maspo_dist.runs.live import WorkerStatus
from maspo_dist.types import (
    FloatArray,
    GroupReport,
    IntArray,
    RolloutGroup,
    RolloutRequest,
    TrainingBatch,
    UpdateReport,
)

Body = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSnapshot:
    """The learner's weights of one policy version, in the object store.

    entries      (name, dtype, shape) of every tensor, Hugging Face names
    buckets      references to lists of u8 arrays, together the bytes of every tensor in the order of entries
    fingerprint  of all tensors in order, see `actors.weights.fingerprint.fingerprint`
    """

    version: int
    entries: tuple[tuple[str, str, tuple[int, ...]], ...]
    buckets: tuple[Body, ...]
    fingerprint: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSequence:
    """Token ids i32[L] whose logprobs (of tokens 1 to L−1, raw, temperature 1) engines and learner must agree on."""

    token_ids: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """What a publish took and showed. `pause_s` is the longest time an engine stood still."""

    version: int
    max_logprob_gap: float
    transfer_s: float
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPublish:
    """One worker's part of a publish. `pause_s` is how long its requests stood still."""

    max_logprob_gap: float
    transfer_s: float
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorProcess:
    """Where an actor runs. `segments` are the names of shared memory that would outlive a kill."""

    node_id: str
    pid: int
    segments: tuple[str, ...] = ()


class RolloutPool(Protocol):
    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]: ...

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> PublishReport: ...

    async def fetch(self, body: Body) -> RolloutGroup: ...

    def store(self, group: RolloutGroup) -> Body: ...

    def scale(self, workers: int) -> None: ...

    def status(self) -> tuple[WorkerStatus, ...]: ...

    async def stop(self) -> None: ...


class RolloutWorkerHandle(Protocol):
    """A started worker. Any call may raise ActorDiedError when the worker's or its engine's process is gone."""

    @property
    def name(self) -> str: ...

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]: ...

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> WorkerPublish: ...

    async def ping(self) -> None:
        """Answers when the engine itself does."""

    async def is_gone_with_its_node(self) -> bool:
        """Whether the cluster has noticed the loss of the node on which the worker was started."""

    async def stop(self) -> None:
        """Ends the engine's processes gently."""

    def kill(self) -> None:
        """Ends the worker and everything it started, in whatever state it is."""


class WorkerFactory(Protocol):
    """Starts workers and reaches the bodies of groups; what a rollout pool needs of the cluster."""

    async def start_worker(self, index: int) -> RolloutWorkerHandle:
        """Places and starts worker `index`. Raises PlacementError when the cluster has no room for it."""

    async def room(self) -> int:
        """How many more workers the cluster could place now."""

    async def fetch(self, body: Body) -> RolloutGroup: ...

    def store(self, group: RolloutGroup) -> Body: ...


class LearnerGroup(Protocol):
    """All learner ranks. Calls raise LearnerLostError when a rank is gone or silent; `restart` makes the group anew,
    with the weights of `model.path` until `load`.
    """

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        """Raises BodyLostError, before anything is trained, where a body is gone with the node that it lay on."""

    async def export_weights(self, version: int) -> WeightSnapshot: ...

    async def probe(self, sequences: Sequence[ProbeSequence]) -> list[FloatArray]: ...

    async def save(self, folder: Path) -> None: ...

    async def load(self, folder: Path) -> None: ...

    async def restart(self) -> None: ...

    async def stop(self) -> None: ...
