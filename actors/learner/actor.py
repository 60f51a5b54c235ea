"""One learner rank as an actor: resolves references and calls its training engine."""

from __future__ import annotations

import faulthandler
import gc
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import ray

from actors.interfaces import (
    ActorProcess,
    AnnouncedWeights,
    Broadcast,
    BroadcastGroup,
    SendReport,
    StagedWeights,
    TensorEntry,
    WeightSnapshot,
)
from actors.ray.actor_options import copy_call, health_call
from actors.ray.on_node import require_shared
from actors.weights.transport import weight_transport
from maspo_dist.config import TrainConfig
from maspo_dist.planning.placement import Device
from maspo_dist.planning.transport import choose_transport
from maspo_dist.runs.logs import configure_logging, redirect_output
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import FloatArray, IntArray, MiniBatch, RolloutGroup

if TYPE_CHECKING:
    from torch import Tensor

    from actors.learner.weights import LearnerWeights


#: Share of the time for the start after which a rank that has not started writes its stacks.
_STACKS_AT = 0.9


class Engine(Protocol):
    """What a rank needs of a training engine; see `DeepSpeedEngine` for the contract."""

    @property
    def policy_version(self) -> int: ...

    @property
    def micro_batches(self) -> int: ...

    def update(
        self,
        shard: tuple[MiniBatch, ...],
        loss_tokens: Sequence[int],
        loss_sequences: Sequence[int],
        groups: Mapping[int, RolloutGroup],
    ) -> dict[str, float]: ...

    def named_weights(self) -> Iterable[tuple[str, Tensor]]: ...

    def weight_entries(self) -> Sequence[TensorEntry]: ...

    def logprobs(self, sequences: Sequence[IntArray]) -> list[FloatArray]: ...

    def frozen_logprobs(self) -> list[ResponseLogprobs]: ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def rest(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Learner:
    """Rank `rank` of `ranks`. Methods are collective unless they say otherwise: call them on all ranks at once."""

    def __init__(self, config: TrainConfig, rank: int, ranks: int, device: Device, logs_path: Path) -> None:
        """Does no work yet; see `start`. `device` is what the driver decided on for the whole run."""
        redirect_output(configure_logging(f"learner-{rank}", logs_path))
        self._config = config
        self._logs_path = logs_path
        self._rank = rank
        self._ranks = ranks
        self._device = device
        self._transport = weight_transport(config.sync.transport)()
        self._running: Engine | None = None
        self._weights: LearnerWeights | None = None
        self._groups: dict[int, RolloutGroup] = {}

    def start(self, init_address: str, token: str) -> ActorProcess:
        """Builds the engine; blocks until all ranks have joined at `init_address` ("tcp://host:port").

        Raises PlacementError where the folder of the logs is not the one to which the driver wrote `token`.
        """
        require_shared(self._logs_path, token)
        # Other ranks may never join. The driver then kills this process, whose stacks are in the log by then.
        faulthandler.dump_traceback_later(_STACKS_AT * self._config.cluster.start_timeout_s, file=2)
        try:
            self._running = self._start_engine(init_address)
        finally:
            faulthandler.cancel_dump_traceback_later()
        if choose_transport(self._config, self._device).is_direct:
            self._weights = self._make_weights()
        return ActorProcess(node_id=ray.get_runtime_context().get_node_id(), pid=os.getpid())

    def renew(self, config: TrainConfig, logs_path: Path) -> None:
        """Makes this process, which has been stopped, a rank of another run with as many ranks; call `start` next."""
        redirect_output(configure_logging(f"learner-{self._rank}", logs_path))
        self._config = config
        self._logs_path = logs_path

    def receive(self, *groups: RolloutGroup) -> None:
        """Stores the groups of the next `update`. Each is an argument of its own, so that Ray resolves its reference.

        Not collective: when one rank cannot read a lost group, no other rank waits for it.
        """
        self._groups = {group.group_id: group for group in groups}

    def update(
        self, shard: tuple[MiniBatch, ...], loss_tokens: tuple[int, ...], loss_sequences: tuple[int, ...]
    ) -> dict[str, float]:
        """See `DeepSpeedEngine.update`; trains on the groups received last."""
        groups, self._groups = self._groups, {}
        return self._engine.update(shard, loss_tokens, loss_sequences, groups)

    def export_weights(self, version: int) -> WeightSnapshot | None:
        """The weights for the workers, from rank 0; None from the others, which only take part."""
        return self._transport.export(version, self._engine.named_weights(), self._rank)

    def announce_weights(self, version: int) -> AnnouncedWeights:
        """What `send_weights` is going to send. Not collective; called on rank 0."""
        return self._outgoing.announce(version, self._engine.weight_entries())

    def send_weights(self, broadcast: Broadcast) -> SendReport:
        """Sends the weights to engines, see `actors.rollout.broadcasts.WeightSender`; only rank 0's report counts."""
        return self._outgoing.send(broadcast, self._engine.named_weights())

    def share_weights(self, version: int) -> StagedWeights:
        """Shares the weights with the engine on this rank's device until `unshare_weights`."""
        return self._outgoing.share(version, self._engine.weight_entries(), self._engine.named_weights())

    def unshare_weights(self) -> None:
        """Frees what only `share_weights` needs."""
        self._outgoing.unshare()

    def keep_weights(self, version: int) -> None:
        """Copies the weights for `stored_weights`."""
        self._outgoing.keep(version, self._engine.named_weights())

    def store_weights(self, version: int) -> None:
        """Puts the weights into the object store for `stored_weights`."""
        self._outgoing.store(version, self._engine.named_weights())

    @health_call
    def abandon_broadcast(self, group: BroadcastGroup) -> None:
        """Ends a `send_weights` that runs. Not collective; called on rank 0."""
        self._outgoing.abandon(group)

    @copy_call
    def stored_weights(self, version: int) -> WeightSnapshot | None:
        """See `interfaces.WeightKeeper.stored`; answers during an `update`. Not collective; called on rank 0."""
        return self._outgoing.stored(version)

    def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """Raw log-probabilities of tokens 1 … L−1 of each sequence."""
        return self._engine.logprobs(sequences)

    @health_call
    def micro_batches(self) -> int:
        """Micro-batches that this rank has computed so far; answers during an `update`. Not collective."""
        return 0 if self._running is None else self._running.micro_batches

    def frozen_logprobs(self) -> list[ResponseLogprobs]:
        """See `DeepSpeedEngine.frozen_logprobs`."""
        return self._engine.frozen_logprobs()

    def save(self, folder: Path) -> tuple[str, ...]:
        """See `DeepSpeedEngine.save`; returns the files in `folder` as this rank's node shows them."""
        self._engine.save(folder)
        return tuple(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())

    def load(self, folder: Path) -> int:
        """See `DeepSpeedEngine.load`; returns the policy version of the checkpoint."""
        self._engine.load(folder)
        return self._engine.policy_version

    def rest(self) -> None:
        """See `DeepSpeedEngine.rest`."""
        self._engine.rest()

    def wake(self) -> None:
        """Takes the device again."""
        self._engine.wake()

    def stop(self) -> None:
        """Leaves the process group, and frees its port and the engine's memory."""
        if self._running is not None:
            self._running.close()
            self._running = None
        self._groups = {}
        # DeepSpeed's engine refers to itself.
        gc.collect()

    def _start_engine(self, init_address: str) -> Engine:
        from actors.engines.deepspeed.engine import DeepSpeedEngine  # takes seconds, which count as part of the start

        return DeepSpeedEngine(self._config, self._device, self._rank, self._ranks, init_address)

    def _make_weights(self) -> LearnerWeights:
        import torch  # which takes seconds, and counts as part of the start

        from actors.learner.weights import LearnerWeights

        device = torch.device("cuda", 0) if self._device == "cuda" else torch.device("cpu")
        return LearnerWeights(self._rank, device, ray.util.get_node_ip_address())

    @property
    def _outgoing(self) -> LearnerWeights:
        if self._weights is None:
            raise RuntimeError(f"learner rank {self._rank} sends no weights")
        return self._weights

    @property
    def _engine(self) -> Engine:
        if self._running is None:
            raise RuntimeError(f"learner rank {self._rank} has not been started")
        return self._running
