"""What a learner rank holds while it starts."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.engines.deepspeed.policy import load_policy
from maspo_dist.config import ModelConfig


def anonymous_bytes() -> int:
    """The memory of this process that is not that of a file."""
    [line] = [line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "Anonymous:" in line]
    return 1024 * int(line.split()[1])


def test_the_ranks_of_a_node_share_the_pages_of_a_model_in_their_dtype(tmp_path: Path) -> None:
    """`maspo-dist plan` says so. A rank that reads another dtype holds a copy of its own."""
    settings = LlamaConfig(
        vocab_size=16384, hidden_size=1024, intermediate_size=1024, num_hidden_layers=1, tie_word_embeddings=True
    )
    LlamaForCausalLM(settings).to(torch.bfloat16).save_pretrained(tmp_path)
    copied_shares = []
    for dtype in ("float32", "bfloat16"):
        before_bytes = anonymous_bytes()
        policy = load_policy(ModelConfig(path=str(tmp_path), dtype=dtype, device="cpu"))
        size_bytes = sum(weight.numel() * weight.element_size() for weight in policy.parameters())
        copied_shares.append((anonymous_bytes() - before_bytes) / size_bytes)
    assert copied_shares[0] > 0.8
    assert copied_shares[1] < 0.2
