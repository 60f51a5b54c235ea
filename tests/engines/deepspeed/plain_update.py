"""The update once more: one process, one response at a time, whole logits, torch's own AdamW and clipping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from maspo_dist.algorithm import token_loss
from maspo_dist.config import TrainConfig
from maspo_dist.types import RolloutGroup, SampleRef, TrainingBatch


def plain_update(
    path: Path, config: TrainConfig, batch: TrainingBatch, groups: dict[int, RolloutGroup]
) -> dict[str, np.ndarray]:
    """Change of every parameter over the mini-batches of `batch`, which is laid out for one rank."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    learner = config.learner
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learner.lr, betas=learner.betas, eps=learner.eps, weight_decay=learner.weight_decay
    )

    def logprobs(ref: SampleRef) -> Tensor:
        group = groups[ref.group_id]
        prompt, response = group.prompt.token_ids, group.rollouts[ref.sample].response_ids
        ids = torch.from_numpy(np.concatenate((prompt, response)).astype(np.int64))
        logits = model(input_ids=ids[None], use_cache=False).logits[0, prompt.size - 1 : -1]
        return logits.log_softmax(-1).gather(1, ids[prompt.size :, None])[:, 0]

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    minis = [[ref for micro in mini for ref in micro] for mini in batch.shards[0]]
    with torch.no_grad():
        old = {ref: logprobs(ref) for mini in minis for ref in mini}
    for mini, loss_tokens in zip(minis, batch.loss_tokens, strict=True):
        optimizer.zero_grad()
        for ref in mini:
            current = logprobs(ref)
            advantages = torch.full_like(old[ref], ref.advantage)
            ids = torch.zeros(old[ref].shape, dtype=torch.int64)
            loss = token_loss(config.algorithm.loss, current, old[ref], advantages, ids).values.sum() / loss_tokens
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), learner.max_grad_norm)
        optimizer.step()
    return {name: (parameter.detach() - before[name]).numpy() for name, parameter in model.named_parameters()}
