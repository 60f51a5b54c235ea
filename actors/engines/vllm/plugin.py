"""A vLLM plugin: the engine's processes end with the actor that started them, and their logs stay short.

vLLM's EngineCore outlives a killed parent and keeps its memory and GPU. vLLM loads plugins in each of its processes
before anything else; this plugin asks the kernel to end the process with its parent.
"""

from __future__ import annotations

import multiprocessing
import os

from actors.engines.vllm.log_filter import filter_log

#: Set for the rollout actor, so that other uses of vLLM in the same environment are not changed.
MARKER = "MASPO_DIST_ENGINE"


def register() -> None:
    """Called by vLLM through the entry point group vllm.general_plugins."""
    if MARKER not in os.environ:
        return
    filter_log()
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    # Other uses of vLLM in the same environment need no import of ours.
    from maspo_dist.reward.pool.lifetime import end_with_parent

    end_with_parent(parent.pid)
