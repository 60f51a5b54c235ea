"""Refuses a rollout engine or weight transport that cannot serve, before anything starts."""

from __future__ import annotations

from actors.engines.registry import rollout_engine
from actors.engines.vllm.arguments import require_arguments
from actors.weights.transport import weight_transport
from maspo_dist.config import EvaluationConfig, TrainConfig
from maspo_dist.config.extension import is_extension
from maspo_dist.errors import ConfigError


def require_backends(config: TrainConfig | EvaluationConfig) -> None:
    """Raises ConfigError for an engine argument that vLLM does not have, and for a class of the user's own that lacks
    something; it names the key. Imports no engine of this package.
    """
    if config.rollout.backend == "vllm":
        require_arguments(config.rollout.engine)
    if is_extension(config.rollout.backend):
        engine = rollout_engine(config.rollout.backend)
        shares_devices = isinstance(config, TrainConfig) and config.cluster.layout == "colocated"
        if shares_devices and not hasattr(engine, "sleep"):
            raise ConfigError(
                f"cluster.layout is colocated, but rollout.backend {config.rollout.backend} has no method sleep: add "
                "it (see SleepingEngine), or set layout to separate"
            )
    if isinstance(config, TrainConfig) and is_extension(config.sync.transport):
        weight_transport(config.sync.transport)
