"""Which way weights travel when `sync.transport` is auto."""

from __future__ import annotations

from dataclasses import dataclass

from maspo_dist.config import TrainConfig
from maspo_dist.planning.placement import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportChoice:
    """A value of `sync.transport` other than auto, and why the run uses it."""

    name: str
    reason: str

    @property
    def is_direct(self) -> bool:
        """Whether engines get weights straight from the learner, which keeps a copy for engines that come later."""
        return self.name in ("collective", "ipc")


def choose_transport(config: TrainConfig, device: Device) -> TransportChoice:
    """The transport of a run of `config` on `device`."""
    if config.sync.transport != "auto":
        return TransportChoice(name=config.sync.transport, reason="sync.transport says so")
    if config.rollout.backend != "vllm":
        reason = "rollout.backend is not vllm, so its engines might not be able to read from anywhere else"
        return TransportChoice(name="object_store", reason=reason)
    if device == "cpu":
        reason = "on CPUs all engines of a node read one copy in shared memory"
        return TransportChoice(name="object_store", reason=reason)
    if config.cluster.layout == "colocated":
        if not config.learner.holds_whole_weights:
            reason = "engines and learners share devices, on which no learner rank holds whole weights"
            return TransportChoice(name="object_store", reason=reason)
        reason = "engines read the weights where the learners on their devices hold them"
        return TransportChoice(name="ipc", reason=reason)
    return TransportChoice(name="collective", reason="NCCL brings the weights straight to the GPUs of all engines")
