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


def choose_transport(config: TrainConfig, device: Device) -> TransportChoice:
    """The transport of a run of `config` on `device`."""
    if config.sync.transport != "auto":
        return TransportChoice(name=config.sync.transport, reason="sync.transport says so")
    if config.cluster.layout == "colocated":
        reason = "engines and learners share devices, and a broadcast needs a device for each of its processes"
        return TransportChoice(name="object_store", reason=reason)
    if device == "cpu":
        reason = "on CPUs all engines of a node read one copy in shared memory"
        return TransportChoice(name="object_store", reason=reason)
    if config.rollout.backend != "vllm":
        reason = "rollout.backend is not vllm, so its engines may not take part in a broadcast"
        return TransportChoice(name="object_store", reason=reason)
    return TransportChoice(name="collective", reason="NCCL brings the weights straight to the GPUs of all engines")
