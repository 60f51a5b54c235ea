"""Tiny models as users bring them: windows, tied weights, shards, `.bin` files, tokenizers of several files."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from transformers import (
    ApertusConfig,
    ApertusForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.convert_slow_tokenizer import import_protobuf

from doubles.tiny_learner import VOCABULARY

CHAT_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
#: Shorter than most sequences of the tests.
WINDOW = 8
#: Of about ten parts.
_SHARD_BYTES = 32_000
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "sliding_window": WINDOW,
}


def save_windows(folder: Path) -> Path:
    """An untied Qwen2 with a window in each layer, in safetensors shards; its tokenizer is a pair of files."""
    torch.manual_seed(1)
    # 32 is the smallest width of heads that vLLM has on CPU.
    shape = _SHAPE | {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    settings = Qwen2Config(**shape, **ids, use_sliding_window=True, max_window_layers=0)
    model = _spread(Qwen2ForCausalLM(settings))
    model.save_pretrained(folder, max_shard_size=_SHARD_BYTES)
    _save_pair(folder)
    return folder


def save_mixed(folder: Path) -> Path:
    """A Gemma 3 with a window in some layers, tied weights, in `.bin` shards; tokenizer as tokenizer.model."""
    torch.manual_seed(1)
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    settings = Gemma3TextConfig(
        **_SHAPE, num_attention_heads=4, head_dim=32, query_pre_attn_scalar=32, layer_types=layers
    )
    model = _spread(Gemma3ForCausalLM(settings))
    settings.architectures = [type(model).__name__]
    settings.save_pretrained(folder)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    split = split_torch_state_dict_into_shards(
        weights, max_shard_size=_SHARD_BYTES, filename_pattern="pytorch_model{suffix}.bin"
    )
    for file, names in split.filename_to_tensors.items():
        torch.save({name: weights[name].clone() for name in names}, folder / file)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    _save_sentence_pieces(folder)
    return folder


def save_experts(folder: Path) -> Path:
    """A Qwen3-MoE: one dense layer, then two of 8 experts, 2 of which compute a token."""
    torch.manual_seed(1)
    # Experts on CPU need multiples of 32 in vLLM.
    shape = _SHAPE | {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 32, "sliding_window": None}
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
    settings = Qwen3MoeConfig(**shape, **experts, mlp_only_layers=[0], eos_token_id=0)
    model = _spread(Qwen3MoeForCausalLM(settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Wider than a fresh model's, so that the choice of experts is clear and matters.
            if "mlp.gate.weight" in name or ".experts." in name:
                weight.mul_(8.0)
    model.save_pretrained(folder, max_shard_size=_SHARD_BYTES)
    _save_pair(folder)
    return folder


def save_buffers(folder: Path) -> Path:
    """An Apertus, whose activation keeps numbers beside the parameters: buffers that are saved but not trained."""
    torch.manual_seed(1)
    shape = _SHAPE | {"sliding_window": None, "num_attention_heads": 4}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    model = _spread(ApertusForCausalLM(ApertusConfig(**shape, **ids, rope_parameters=rope)))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.act_fn.beta.fill_(0.25)
    model.save_pretrained(folder, max_shard_size=_SHARD_BYTES)
    _save_pair(folder)
    return folder


def _spread(model: PreTrainedModel) -> PreTrainedModel:
    """Widens the head, so that probabilities differ from token to token."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2.0 if model.config.tie_word_embeddings else 8.0)
    return model


def _save_pair(folder: Path) -> None:
    """A byte-pair tokenizer as Qwen2's: vocab.json and merges.txt."""
    pieces = ["<|endoftext|>", *string.printable[:92], "Ġ", "xy", "Ġx"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nx y\nĠ x\n", encoding="utf-8")
    _save_tokenizer_config(folder, "Qwen2Tokenizer")


def _save_sentence_pieces(folder: Path) -> None:
    """A SentencePiece model as Gemma's."""
    file = import_protobuf().ModelProto()
    control, unknown, normal = 3, 2, 1
    special = {"<pad>": control, "<eos>": control, "<bos>": control, "<unk>": unknown}
    pieces = [*special.items(), *((piece, normal) for piece in ["xy", "▁x", "▁", *string.printable[:88]])]
    for number, (piece, kind) in enumerate(pieces):
        file.pieces.add(piece=piece, score=-float(number), type=kind)
    file.trainer_spec.model_type = 2  # byte pairs
    file.trainer_spec.unk_id = 3
    (folder / "tokenizer.model").write_bytes(file.SerializeToString())
    _save_tokenizer_config(folder, "GemmaTokenizer")


def _save_tokenizer_config(folder: Path, name: str) -> None:
    settings = {"tokenizer_class": name, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
