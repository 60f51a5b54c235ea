"""What the processes of a run ask of each other, as Protocols and records; tests put doubles behind them.

`Body` stands for a `RolloutGroup` in the object store: the controller hands it on and never opens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from maspo_dist.config import ModelConfig
from maspo_dist.planning.placement import Device
from maspo_dist.runs.live import EngineFigures, WorkerStatus
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import (
    FloatArray,
    GroupReport,
    IntArray,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Sampling,
    TrainingBatch,
    UpdateReport,
)

if TYPE_CHECKING:
    # Processes that only score, or serve a fake engine, start without torch.
    from torch import Tensor

Body = Any

#: (name, dtype, shape) of one tensor, by its Hugging Face name.
TensorEntry = tuple[str, str, tuple[int, ...]]
#: (name, dtype, shape, offset in bytes) of one tensor.
TensorSlice = tuple[str, str, tuple[int, ...], int]

#: Policy version of tokens from an engine to which no weights were published.
AS_LOADED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSnapshot:
    """The learner's weights of one policy version, on their way to the workers.

    entries      (name, dtype, shape) of every tensor, Hugging Face names
    payload      what the transport's `receive` needs; references in it are awaitable
    fingerprint  of all tensors in order, see `actors.weights.fingerprint.fingerprint`
    """

    version: int
    entries: tuple[TensorEntry, ...]
    payload: tuple[Body, ...]
    fingerprint: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncedWeights:
    """Weights of one policy version that only the learner holds yet.

    entries        (name, dtype, shape) of every tensor in the order in which it is sent
    address, port  of the TCP store of learner rank 0, where the members of a broadcast meet
    """

    version: int
    entries: tuple[TensorEntry, ...]
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastGroup:
    """A process group of learner rank 0 and the processes of engines.

    name           no other group at the same store ever has this name
    engine_ranks   members beside rank 0
    deadline_s     for all members to meet, for all to begin a broadcast, and for its bytes
    """

    address: str
    port: int
    name: str
    engine_ranks: int
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """A source of StagedWeights: learner rank 0 sends them to all members of `group` while they are loaded.

    number      of the broadcast among those of the group
    first_rank  rank in the group of the first process of the engine
    """

    group: BroadcastGroup
    number: int
    first_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """How a broadcast ended.

    failure  what went wrong; None when all members have all bytes
    missing  ranks of the group that did not report that they have all bytes
    """

    failure: str | None = None
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedFile:
    """`size_bytes` bytes that every process of this node can map at `path`."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedWeights:
    """Weights of one policy version where an engine can read them: a transport makes it, an engine loads it.

    source   where the bytes are: a MappedFile, a Broadcast, SharedDevices, or a record of another transport
    """

    version: int
    entries: tuple[TensorSlice, ...]
    source: object


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """What a publish brings to a worker: weights, and what proves that its engine holds them.

    snapshot       AnnouncedWeights while only the learner holds the weights
    probes         token ids i32[L] of each probe
    expected       the learner's logprobs f32[L−1] of tokens 1 to L−1 of each probe, raw, temperature 1
    max_mean_gap   largest accepted mean |logprob(engine) − logprob(learner)| over all probes
    """

    snapshot: WeightSnapshot | AnnouncedWeights
    probes: Sequence[IntArray]
    expected: Sequence[FloatArray]
    max_mean_gap: float

    @property
    def version(self) -> int:
        return self.snapshot.version


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """Time and proof of a publish to one worker, or the largest figures of all workers.

    `pause_s` is the pause of the engine's requests.
    """

    version: int
    mean_logprob_gap: float
    max_logprob_gap: float
    transfer_s: float
    pause_s: float

    @property
    def metrics(self) -> dict[str, float]:
        return {
            "sync/mean_logprob_gap": self.mean_logprob_gap,
            "sync/max_logprob_gap": self.max_logprob_gap,
            "sync/transfer_s": self.transfer_s,
            "sync/pause_s": self.pause_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorProcess:
    """Where an actor runs. `segments` are the names of shared memory that would outlive a kill."""

    node_id: str
    pid: int
    segments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    rank: int
    #: Names of the layers that have an adapter, such as q_proj.
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """`max_model_len` bounds prompt and response together, in tokens; `arguments` are `rollout.engine`.

    keeps_kv        whether responses in flight go on with the keys and values of the weights before a `load`
    counts          whether the engine is to keep its `EngineFigures`
    sleeps          whether the engine shares its device with a learner, see `SleepingEngine`
    adapter         what a `load` brings beside the weights of `model`; None where it brings all weights
    reasoning_tags  opening and closing tags; `Rollout.text` keeps a tag that is a special token
    """

    model: ModelConfig
    max_model_len: int
    tensor_parallel: int
    seed: int
    keeps_kv: bool
    arguments: Mapping[str, Any]
    counts: bool = False
    sleeps: bool = False
    adapter: AdapterSettings | None = None
    reasoning_tags: tuple[str, ...] = ()


class RolloutEngine(Protocol):
    """A generation engine in the process of its rollout worker; `rollout.backend` names its class.

    Requests run concurrently on one event loop. An update is `pause`, `load`, `resume`: requests in flight stop at
    `pause`, are kept, and go on after `resume` with the new weights. Each token is of the version that was loaded when
    it was sampled, AS_LOADED before the first `load`. Any method raises ActorDiedError when a process of the engine is
    dead; no method returns a part of its answer.
    """

    def __init__(self, settings: EngineSettings, device: Device) -> None:
        """Starts the engine with the weights of `settings.model`; may block for a minute.

        Raises ConfigError, before it loads anything, when this process cannot use `device`.
        """

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        """One response to the prompt `token_ids`. Its logprobs are of the distribution that was sampled.

        Equal seeds give equal responses. A response still open after `cut_after_s` seconds ends there with
        finish_reason "length" and at least one token. Cancelling the call ends the request.
        """

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        """Logprobs f32[L−1] of tokens 1 to L−1 at temperature 1, by the weights loaded last and without any cache."""

    async def pause(self) -> None:
        """Returns once no request is being computed."""

    async def load(self, weights: StagedWeights) -> None:
        """Replaces all weights or, by `EngineSettings.adapter`, the adapter, and what was computed from the old ones.

        Called between `pause` and `resume`; `EngineSettings.keeps_kv` names an exception. A request that comes later
        meets nothing of the old weights. `weights` stay readable until the next `load`. Raises ConfigError for a
        `source` that the engine cannot read, and WeightTransferError when it lacks bytes: the engine then holds no
        usable weights until its next `load`.
        """

    async def load_by_detour(self, weights: StagedWeights) -> Sequence[str]:
        """Like `load`, but loads other weights in between. Returns the names of the parameters that did not change.

        A worker calls it once, for its first weights. Empty where the engine has no way to tell.
        """

    async def resume(self) -> None: ...

    async def stale_parameters(self, weights: StagedWeights) -> Sequence[str]:
        """The names of the parameters that the engine computes from, but whose values are not those of `weights`.

        Called after each load. It may look at a sample of the values, and must never name a parameter that is right.
        """

    async def ping(self) -> int:
        """Answers when the engine itself does, during a `load` too: how many tokens it has sampled so far, in responses
        that have ended or are open.
        """

    def close(self) -> None:
        """Ends the engine's processes."""


class WeightTransport(Protocol):
    """Carries weights from the learner ranks to the engines; `sync.transport` names its class.

    Each learner rank and each rollout worker makes a transport, without arguments. The learner side calls `export`,
    the worker side `receive` and `close`. No update starts before the publish has ended, so bytes may still be on their
    way when `export` or `receive` returns: an engine that knows the `source` may wait for them in `load`.
    """

    def export(self, version: int, tensors: Iterable[tuple[str, Tensor]], rank: int) -> WeightSnapshot | None:
        """Called on all ranks at once. Rank 0 returns the snapshot, others None.

        Gathering `tensors` (Hugging Face name, whole tensor) is collective: every rank must iterate to the end.
        """

    async def receive(self, snapshot: WeightSnapshot) -> StagedWeights:
        """Brings the weights to this node; a worker that joins later receives the same snapshot.

        The engine still serves the weights received before, but no longer reads them. Raises WeightSyncError when the
        bytes are not the exported ones, LearnerLostError when they were lost with the learner.
        """

    def close(self) -> None:
        """Frees what the worker side holds."""


class RolloutPool(Protocol):
    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]: ...
    async def publish(self, update: WeightUpdate) -> PublishReport: ...
    async def fetch(self, body: Body) -> RolloutGroup: ...
    def store(self, group: RolloutGroup) -> Body: ...

    def last_token_s(self) -> float:
        """Event loop time at which a worker last reported new tokens; 0 before."""

    def scale(self, workers: int) -> None: ...

    def leave_nodes(self, leaving: Mapping[str, float]) -> None:
        """Moves the workers from nodes that leave the cluster; `leaving` holds the seconds left, by node id."""

    def status(self) -> tuple[WorkerStatus, ...]: ...


class RolloutWorkerHandle(Protocol):
    """A started worker. Any call may raise ActorDiedError when the worker's or its engine's process is gone."""

    @property
    def name(self) -> str: ...

    @property
    def node_id(self) -> str:
        """The node on which the worker started."""

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]: ...

    async def stage(self, update: WeightUpdate) -> StagedWeights:
        """Receives the weights of `update` into memory that all workers of its node can map."""

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        """Loads and proves `update`, from `staged` if it is given and its worker lives."""

    async def sleep(self) -> None:
        """See `SleepingEngine`; a publish wakes the engine."""

    @property
    def figures(self) -> EngineFigures | None:
        """Of its engine, by the last ping; None where the engine does not tell."""

    async def ping(self) -> int:
        """See `RolloutEngine.ping`."""

    async def is_gone_with_its_node(self) -> bool:
        """Whether the cluster has noticed the loss of the node on which the worker started."""

    async def stop(self) -> None:
        """Asks the engine to end its processes."""

    def kill(self) -> None:
        """Ends the worker and everything it started, in any state."""


class WorkerFactory(Protocol):
    """What a rollout pool needs of the cluster: it starts workers, and reads and stores the bodies of groups."""

    async def start_worker(self, index: int, place_timeout_s: float) -> RolloutWorkerHandle:
        """Places and starts worker `index`. Raises PlacementError when the cluster has no room for it in time."""

    async def room(self) -> int:
        """How many more workers the cluster could place now."""

    async def fetch(self, body: Body) -> RolloutGroup: ...
    def store(self, group: RolloutGroup) -> Body: ...


class LearnerGroup(Protocol):
    """All learner ranks. Calls raise LearnerLostError when a rank died or does not answer. `restart` starts all ranks
    again, with the weights of `model.path` until `load`.
    """

    @property
    def achieved(self) -> int:
        """Changes while an update makes progress."""

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        """Raises BodyLostError, before anything is trained, when a body was lost with its node."""

    async def export_weights(self, version: int) -> WeightSnapshot | AnnouncedWeights: ...
    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]: ...
    async def frozen_logprobs(self) -> list[ResponseLogprobs]: ...
    async def save(self, folder: Path) -> None: ...
    async def load(self, folder: Path) -> None: ...
    async def restart(self) -> None: ...


class WeightKeeper(Protocol):
    """Learners that announce weights. Calls raise LearnerLostError when a rank died or does not answer."""

    async def keep(self, version: int) -> None:
        """Copies the weights, so that `stored` can be answered during updates."""

    async def store(self, version: int) -> None:
        """Puts the weights into the object store at once, without the copy of `keep`."""

    async def stored(self, version: int) -> WeightSnapshot | None:
        """The kept or stored weights in the object store; None when these are of another version."""
