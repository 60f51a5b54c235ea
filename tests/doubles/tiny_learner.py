"""A tiny model and batches of ragged responses to train it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from actors.bench.doubles import make_report
from maspo_dist.config import TrainConfig
from maspo_dist.types import Prompt, Rollout, RolloutGroup, ScoredGroup

VOCABULARY = 96


def make_model(folder: Path, *, tied: bool = False, head_dim: int = 16) -> Path:
    """A Qwen3 of about 50k parameters, in float32."""
    torch.manual_seed(1)
    settings = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    model = Qwen3ForCausalLM(settings)
    with torch.no_grad():
        # Wider than a fresh model's, so that probabilities and entropies differ from token to token. Tied and as
        # wide, the model would be all but certain (0.7 nats), and some gradients mere rounding, which AdamW divides
        # by their own size: layouts would be 5e-5 apart, nearly all of it in ten elements (3e-6 with eps 1e-6).
        model.get_output_embeddings().weight.mul_(2.0 if tied else 8.0)
    model.save_pretrained(folder)
    return folder


def make_config(folder: Path, **sections: dict[str, Any]) -> TrainConfig:
    """float32 on the CPU, one thread a rank; `sections` are merged over the defaults of this function."""
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": "test", "max_steps": 10},
        "model": {"path": str(folder), "dtype": "float32", "device": "cpu"},
        "data": {"train": ["unused.jsonl"]},
        "rollout": {"prompts_per_step": 8, "max_response_tokens": 64, "group_size": 4},
        "learner": {"lr": 1e-3, "threads": 1, "micro_batch_tokens": 256},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    return TrainConfig.model_validate(tree)


def make_groups(count: int = 8, samples: int = 4, *, seed: int = 0) -> list[RolloutGroup]:
    """Responses of 1 to 60 tokens with a long tail; behavior logprobs near those of a uniform policy."""
    rng = np.random.default_rng(seed)
    groups = []
    for group_id in range(count):
        prompt = rng.integers(0, VOCABULARY, rng.integers(3, 12)).astype(np.int32)
        lengths = np.clip(rng.lognormal(2.5, 0.9, samples), 1, 60).astype(int)
        groups.append(
            RolloutGroup(
                group_id=group_id,
                prompt=Prompt(prompt_id=f"p{group_id}", token_ids=prompt, reference="", source="test"),
                rollouts=tuple(
                    Rollout(
                        response_ids=rng.integers(0, VOCABULARY, length).astype(np.int32),
                        behavior_logprobs=rng.normal(-4.5, 0.1, length).astype(np.float32),
                        text="",
                        finish_reason="stop",
                        token_versions=((0, int(length)),),
                    )
                    for length in lengths
                ),
            )
        )
    return groups


def score(groups: list[RolloutGroup], *, seed: int = 0) -> list[ScoredGroup]:
    """Random rewards and advantages; every seventh response is not trainable."""
    rng = np.random.default_rng(seed)
    scored = []
    for group in groups:
        lengths = np.array([rollout.response_ids.size for rollout in group.rollouts], dtype=np.int32)
        samples = lengths.size
        report = make_report(group.group_id, group.prompt.token_ids.size, lengths.tolist())
        scored.append(
            ScoredGroup(
                report=report,
                rewards=rng.integers(0, 2, samples).astype(np.float32),
                advantages=rng.normal(0.0, 1.0, samples).astype(np.float32),
                trainable=np.array([(group.group_id * samples + i) % 7 != 6 for i in range(samples)]),
            )
        )
    return scored
