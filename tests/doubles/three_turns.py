"""Three-turn responses from a real engine, and how far their logprobs are from the learner's."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from actors.engines.deepspeed.attention import PACKED
from actors.engines.deepspeed.micro_batch import forward_tensors
from actors.engines.deepspeed.policy import Policy
from actors.interfaces import RolloutEngine
from maspo_dist.algorithm.logprobs import LogprobHead
from maspo_dist.data.packing import pack_micro_batch
from maspo_dist.data.trajectory import Trajectory
from maspo_dist.flow.seeds import turn_seed
from maspo_dist.models.support import attends_by_bounds
from maspo_dist.types import Prompt, Rollout, RolloutGroup, SampleRef, Sampling

_TURN = Sampling(temperature=1.0, max_response_tokens=12)


async def three_turn_gap(engine: RolloutEngine, model: PreTrainedModel) -> tuple[float, int, int]:
    """Largest |Δ logprob| of the sampled tokens of six responses in one packed forward, their number, and all tokens.

    `model` holds the weights of `engine` in float32; it becomes the learner's policy.
    """
    rng = np.random.default_rng(3)
    groups, refs = {}, []
    for number in range(6):
        prompt_ids = rng.integers(5, 100, 9 + number).astype(np.int32)
        prompt = Prompt(prompt_id=f"p{number}", token_ids=prompt_ids, reference="", source="test")
        rollout = await _three_turns(engine, prompt_ids, number, rng)
        groups[number] = RolloutGroup(group_id=number, prompt=prompt, rollouts=(rollout,))
        refs.append(SampleRef(group_id=number, sample=0, reward=0.0, advantage=0.0))
    if attends_by_bounds(model):
        model.set_attn_implementation(PACKED)
    packed = pack_micro_batch(tuple(refs), groups)
    policy = Policy(model, LogprobHead(model.get_output_embeddings().weight))
    with torch.no_grad():
        logprobs, _, _ = policy(forward_tensors(packed.tokens, torch.device("cpu")), 1.0)
    gap = float(np.abs(logprobs.numpy() - packed.behavior_logprobs).max())
    return gap, packed.behavior_logprobs.size, packed.tokens.input_ids.size


async def _three_turns(engine: RolloutEngine, prompt_ids: np.ndarray, seed: int, rng: np.random.Generator) -> Rollout:
    trajectory = Trajectory(prompt_ids, limit=100)
    for turn in range(3):
        said = await engine.generate(trajectory.token_ids, _TURN, turn_seed(seed, turn), None)
        trajectory.say(said)
        if turn < 2:
            trajectory.hear(rng.integers(5, 100, 4 + turn).astype(np.int32))
    rollout = trajectory.rollout("stop")
    assert len(rollout.heard) == 2
    return rollout
