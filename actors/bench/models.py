"""Models of random weights, in the size that a bench needs."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

_HEAD_DIM = 64


def random_qwen3(vocabulary: int, layers: int, width: int) -> Qwen3ForCausalLM:
    """A Qwen3 in float32, the same at each call: heads of 64, two per key-value head, MLPs of 3 × `width`."""
    torch.manual_seed(0)
    heads = width // _HEAD_DIM
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=_HEAD_DIM,
            tie_word_embeddings=False,
        )
    )


def random_smollm2() -> LlamaForCausalLM:
    """A model of the shape of SmolLM2-135M in float32, the same at each call."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )
