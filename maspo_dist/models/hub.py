"""Whether the model hub can be reached, and sizes of the models that the recipes name."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import httpx
from huggingface_hub import constants

from maspo_dist.models.size import ModelSize

_PROBE_TIMEOUT_S = 5.0

#: For planning on a machine that cannot read the models' own configurations.
KNOWN_SIZES: Mapping[str, ModelSize] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ModelSize(
        parameters=1_777_088_000, layers=28, kv_heads=2, head_dim=128, context_tokens=131_072
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": ModelSize(
        parameters=7_615_616_512, layers=28, kv_heads=4, head_dim=128, context_tokens=131_072
    ),
}


@functools.cache
def hub_is_reachable() -> bool:
    """Whether the hub answers, checked once per process; the hub's own client would retry for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
    except httpx.HTTPError:
        return False
    return True
