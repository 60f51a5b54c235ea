"""How much of Ray's object store a run needs on a node."""

from __future__ import annotations

from maspo_dist.config import TrainConfig
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.placement import weight_width

#: Bytes of a response token in the object store: its id, its logprob and its text.
_TOKEN_BYTES = 16


def publish_bytes(config: TrainConfig, size: ModelSize) -> int:
    """What a node's object store holds during a publish: two snapshots of the weights, and the groups of all steps that
    may be open.
    """
    snapshot = size.parameters * weight_width(config.model)
    groups = (2 + config.algorithm.max_policy_age) * config.rollout.prompts_per_step
    return 2 * snapshot + groups * config.rollout.group_size * config.rollout.max_response_tokens * _TOKEN_BYTES
