"""Batches of random responses for the learner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.bench.doubles import make_report, make_scored
from maspo_dist.config import TrainConfig
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.types import Prompt, Rollout, RolloutGroup, TrainingBatch


def random_groups(config: TrainConfig, vocabulary: int) -> list[RolloutGroup]:
    """A step's groups, the same at each call: every prompt and every response at its longest."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(0, vocabulary, count).astype(np.int32)

    return [
        RolloutGroup(
            group_id=number,
            prompt=make_prompt(number, tokens(config.data.max_prompt_tokens)),
            rollouts=tuple(
                _rollout(tokens(config.rollout.max_response_tokens)) for _ in range(config.rollout.group_size)
            ),
        )
        for number in range(config.rollout.prompts_per_step)
    ]


def make_prompt(number: int, token_ids: np.ndarray) -> Prompt:
    """Prompt NUMBER without a reference."""
    return Prompt(prompt_id=str(number), token_ids=token_ids, reference="", source="bench")


def lay_out(config: TrainConfig, groups: Sequence[RolloutGroup], ranks: int = 1) -> TrainingBatch:
    """One optimizer step over `groups`; advantages of 1 and −1 in turn."""
    scored = []
    for group in groups:
        lengths = [rollout.response_ids.size for rollout in group.rollouts]
        report = make_report(group.group_id, group.prompt.token_ids.size, lengths)
        scored.append(make_scored(report, np.resize(np.array([1, -1], np.float32), len(lengths))))
    budget = config.learner.micro_batch_tokens
    return lay_out_batch(1, scored, mini_batches=1, ranks=ranks, micro_batch_tokens=budget)


def _rollout(token_ids: np.ndarray) -> Rollout:
    return Rollout(
        response_ids=token_ids,
        behavior_logprobs=np.full(token_ids.size, -3.0, np.float32),
        text="",
        finish_reason="length",
        token_versions=((0, token_ids.size),),
    )
