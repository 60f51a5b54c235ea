"""Model folders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config

from actors.bench.gpu.setting import Shape
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.models.folder import save_model_folder

#: The head's weights are wider than a fresh model's, so that some tokens are likely, as in a trained model.
_HEAD_SCALE = 4.0


def save_random_qwen3(folder: Path, shape: Shape, layers: int, dtype: Literal["bfloat16", "float32"]) -> None:
    """Saves a Qwen3 with `layers` layers, the same at each call, and the demo's tokenizer, which knows few ids."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = shape.context_tokens
    settings = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=shape.context_tokens,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, dtype))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(_HEAD_SCALE)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    save_model_folder(folder, model, tokenizer)
