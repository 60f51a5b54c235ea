"""Log-probabilities of sampled responses, by the engine that sampled them and by the learner of the same weights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from actors.bench.gpu.pair import PROMPT_TOKENS, Pair, gaps
from actors.bench.gpu.responses import lay_out, make_prompt
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace
from maspo_dist.types import FloatArray, Rollout, RolloutGroup, Sampling

#: Largest mean gap: others publish 0.01 to 0.05 for bfloat16.
MEAN_GAP = {"bfloat16": 0.05, "float32": 1e-3}
_SAMPLES = 4


def measure(place: Workplace) -> Measured:
    """The gap now; and the gap to a learner that is one optimizer step ahead of the engine."""
    pair, scale = place.pair(), place.setting.scale
    sampling = Sampling(temperature=1.0, max_response_tokens=scale.response_tokens)
    groups = pair.run(_sample(pair, scale.responses // _SAMPLES, sampling))
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    sampled = [rollout.behavior_logprobs for rollout in rollouts]
    now = gaps(sampled, _by_learner(pair, groups))
    batch = lay_out(pair.config, groups)
    bodies = {group.group_id: group for group in groups}
    pair.learner.update(batch.shards[0], batch.loss_tokens, batch.loss_sequences, bodies)
    behind = gaps(sampled, _by_learner(pair, groups))
    figures: dict[str, Figure] = {
        "responses": len(rollouts),
        "tokens": sum(rollout.response_ids.size for rollout in rollouts),
        **{f"gap_{name}": value for name, value in now.items()},
        **{f"gap_{name}_one_step_behind": value for name, value in behind.items()},
        "learning_rate": pair.config.learner.lr,
    }
    return Measured(figures=figures, limits=(Limit(figure="gap_mean", most=MEAN_GAP[place.setting.dtype]),))


async def _sample(pair: Pair, count: int, sampling: Sampling) -> list[RolloutGroup]:
    """`count` groups, all requests at once."""
    prompts = pair.prompts(count)

    async def one(number: int) -> RolloutGroup:
        seeds = range(_SAMPLES * number, _SAMPLES * (number + 1))
        responses = await asyncio.gather(
            *(pair.engine.generate(prompts[number], sampling, seed, None) for seed in seeds)
        )
        return RolloutGroup(group_id=number, prompt=make_prompt(number, prompts[number]), rollouts=tuple(responses))

    return list(await asyncio.gather(*map(one, range(count))))


def _by_learner(pair: Pair, groups: Sequence[RolloutGroup]) -> list[FloatArray]:
    """Of the response tokens, f32[T] per response."""

    def whole(group: RolloutGroup, rollout: Rollout) -> np.ndarray:
        return np.concatenate([group.prompt.token_ids, rollout.response_ids])

    sequences = [whole(group, rollout) for group in groups for rollout in group.rollouts]
    return [logprobs[PROMPT_TOKENS - 1 :] for logprobs in pair.learner.logprobs(sequences)]
