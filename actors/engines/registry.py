"""The rollout engines by their names in `rollout.backend`, each imported when a worker starts."""

from __future__ import annotations

from actors.interfaces import RolloutEngine
from maspo_dist.config.extension import load_class

_ENGINES = {"vllm": "python:actors.engines.vllm.engine:VllmEngine"}


def rollout_engine(backend: str) -> type[RolloutEngine]:
    """The class of `backend`. Raises ConfigError when it cannot be imported or lacks a method of RolloutEngine."""
    return load_class(_ENGINES.get(backend, backend), "rollout.backend", RolloutEngine)
