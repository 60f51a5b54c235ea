"""What the controller was told of lengths, compared with the responses that the learner gets."""

from __future__ import annotations

from collections.abc import Mapping

from maspo_dist.types import RolloutGroup, TrainingBatch


def require_layout(batch: TrainingBatch, groups: Mapping[int, RolloutGroup], most: int) -> None:
    """Sampled tokens are counted in the loss, and all tokens against the `most` of a micro-batch."""
    sampled = [0] * len(batch.loss_tokens)
    for number, mini in (pair for shard in batch.shards for pair in enumerate(shard)):
        for micro in mini:
            rollouts = [groups[ref.group_id].rollouts[ref.sample] for ref in micro]
            sampled[number] += sum(rollout.behavior_logprobs.size for rollout in rollouts)
            prompts = sum(groups[ref.group_id].prompt.token_ids.size for ref in micro)
            tokens = prompts + sum(rollout.response_ids.size for rollout in rollouts)
            assert len(micro) <= 1 or tokens <= most, f"a micro-batch has {tokens} tokens, {most} are allowed"
    assert sampled == list(batch.loss_tokens), "the loss is averaged over other tokens than were sampled"
