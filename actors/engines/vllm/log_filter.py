"""Leaves out what vLLM logs at every publish; everything else that it logs stays."""

from __future__ import annotations

import logging
import re

#: The messages, by the logger that writes them.
_OF_EVERY_PUBLISH = {
    "vllm.v1.core.sched.scheduler": re.compile("setting pause state to "),
    "vllm.v1.core.block_pool": re.compile("Successfully reset prefix cache"),
    # The buffer of this layer is in no checkpoint. The same message about another layer is a fault.
    "vllm.model_executor.model_loader.reload.layerwise": re.compile(r"\w*RotaryEmbedding: Failed to load weights"),
}


def filter_log() -> None:
    """Call it in each of vLLM's processes; a second call changes nothing."""
    for name in _OF_EVERY_PUBLISH:
        logging.getLogger(name).addFilter(_is_kept)


def _is_kept(record: logging.LogRecord) -> bool:
    return _OF_EVERY_PUBLISH[record.name].match(record.getMessage()) is None
