"""Packed attention gives each sequence what eager attention gives it alone, in every family of models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from actors.engines.deepspeed import attention
from actors.engines.deepspeed.attention import PACKED, SequenceBounds, packed_attention, sequence_bounds
from actors.engines.deepspeed.micro_batch import forward_tensors
from actors.engines.deepspeed.policy import Policy
from maspo_dist.algorithm.logprobs import LogprobHead
from maspo_dist.config import ModelConfig
from maspo_dist.data.packing import pack_sequences
from maspo_dist.models.support import attends_by_bounds, training_obstacle

VOCABULARY = 64
#: Of one micro-batch, in packing order. In the first all sequences are short, so they are computed together.
LENGTHS = {"short": (7, 1, 40, 33, 9, 1), "long": (7, 1, 80, 33, 1)}
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA_3 = {"query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=8),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
    "qwen2 with windows": lambda: transformers.Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=None),
    "mistral with windows": lambda: transformers.MistralConfig(**SHAPE, sliding_window=5),
    "gemma": lambda: transformers.GemmaConfig(**SHAPE, head_dim=8),
    "gemma 3, mixed layers": lambda: transformers.Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=6, **GEMMA_3),
    "phi": lambda: transformers.PhiConfig(**SHAPE),
    "phi 3 with windows": lambda: transformers.Phi3Config(**SHAPE, sliding_window=9),
}


def make_model(settings: PretrainedConfig, attention: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(settings), attn_implementation=attention)


def packed(kind: str = "short") -> tuple[list[np.ndarray], Tensor, Tensor, SequenceBounds]:
    """(sequences, input ids [1, P], positions [1, P], bounds)."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(3, VOCABULARY, length).astype(np.int32) for length in LENGTHS[kind]]
    tokens = pack_sequences(sequences, [np.arange(1, sequence.size) for sequence in sequences])
    ids, positions = (torch.from_numpy(array)[None] for array in (tokens.input_ids, tokens.position_ids))
    return sequences, ids, positions, sequence_bounds(tokens.position_ids, torch.device("cpu"))


@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_sequence_sees_what_it_sees_alone(family: str, kind: str, checkpointed: bool) -> None:
    settings = FAMILIES[family]()
    ours, alone = make_model(settings, PACKED).train(), make_model(settings, "eager").train()
    if checkpointed:
        ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sequences, ids, positions, bounds = packed(kind)
    assert (bounds.rows is None) == (kind == "long")
    weights = torch.randn(ids.shape[1], SHAPE["hidden_size"])
    hidden = ours.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False, sequence_bounds=bounds)[0][0]
    (hidden * weights).sum().backward()
    one_by_one = [
        alone.get_decoder()(input_ids=torch.from_numpy(sequence.astype(np.int64))[None], use_cache=False)[0][0]
        for sequence in sequences
    ]
    (torch.cat(one_by_one) * weights).sum().backward()
    torch.testing.assert_close(hidden, torch.cat(one_by_one), atol=5e-6, rtol=1e-5)
    for (name, mine), theirs in zip(ours.named_parameters(), alone.parameters(), strict=True):
        if theirs.grad is None:
            assert mine.grad is None, name
        else:
            gap = (mine.grad - theirs.grad).norm() / theirs.grad.norm()
            assert gap < 1e-5, f"{name}: {gap}"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_mask_is_built(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(FAMILIES[family](), PACKED)
    masks: list[object] = []

    def spy(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any) -> Any:
        masks.append(mask)
        return packed_attention(module, query, key, value, mask, **more)

    monkeypatch.setitem(transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS._global_mapping, PACKED, spy)
    _, ids, positions, bounds = packed()
    model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False, sequence_bounds=bounds)
    assert masks == [None] * SHAPE["num_hidden_layers"]


def test_flash_attention_gets_the_bounds_instead_of_reading_them_off_the_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[dict[str, Any]] = []

    def flash(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any) -> Any:
        calls.append({"mask": mask, **more})
        return torch.zeros_like(query).transpose(1, 2), None

    name = "flash_attention_2"
    model = make_model(FAMILIES["qwen2"](), PACKED)
    monkeypatch.setitem(transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS._global_mapping, name, flash)
    model.get_decoder().config._attn_implementation = name
    policy = Policy(model, LogprobHead(model.get_output_embeddings().weight))
    sequences, *_ = packed()
    policy(
        forward_tensors(
            pack_sequences(sequences, [np.arange(1, sequence.size) for sequence in sequences]), torch.device("cpu")
        ),
        1.0,
    )
    assert len(calls) == SHAPE["num_hidden_layers"]
    lengths = LENGTHS["short"]
    for call in calls:
        assert call["mask"] is None
        assert call["cu_seq_lens_q"].tolist() == call["cu_seq_lens_k"].tolist() == [0, *np.cumsum(lengths)]
        assert call["cu_seq_lens_q"].dtype == torch.int32
        assert call["max_length_q"] == call["max_length_k"] == max(lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_automatic_attention_is_packed_attention(family: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    assert attends_by_bounds(model)
    if family == "phi":
        assert training_obstacle(ModelConfig(path="m"), model) is not None  # its lm_head has a bias
    else:
        assert training_obstacle(ModelConfig(path="m"), model) is None


REFUSED: dict[str, tuple[Callable[[], PretrainedConfig], str]] = {
    "sinks": (
        lambda: transformers.GptOssConfig(**SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
        "a GptOssForCausalLM has attention sinks, which model.attention auto does not support: "
        "set model.attention to eager",
    ),
    "capped scores": (
        lambda: transformers.Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=None),
        "a Gemma2ForCausalLM caps its attention scores, which model.attention auto does not support: "
        "set model.attention to eager",
    ),
    "capped logits": (
        lambda: transformers.Gemma2Config(**SHAPE, head_dim=8),
        "a Gemma2ForCausalLM changes its logits by final_logit_softcapping, which is not supported",
    ),
    "state": (
        lambda: transformers.Lfm2Config(**SHAPE, layer_types=["conv", "full_attention", "conv"]),
        "a Lfm2ForCausalLM has layers whose state would leak from one packed sequence into the next, "
        "which is not supported",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_packing_would_change_is_refused_with_the_reason(case: str) -> None:
    settings, reason = REFUSED[case]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings())
    assert training_obstacle(ModelConfig(path="m"), model) == f"model.path m: {reason}"


def test_a_model_without_position_ids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SHAPE))
    assert training_obstacle(ModelConfig(path="m"), model) is None
    monkeypatch.setattr(model.get_decoder(), "forward", lambda input_ids: input_ids)
    obstacle = training_obstacle(ModelConfig(path="m"), model)
    assert obstacle is not None
    assert obstacle.endswith("takes no position_ids, which keep packed sequences apart")


@pytest.mark.parametrize("case", ["sinks", "capped scores"])
def test_eager_attention_takes_what_packed_attention_lacks(case: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(REFUSED[case][0]())
    assert training_obstacle(ModelConfig(path="m", attention="eager"), model) is None


@pytest.mark.parametrize("window", [None, 20])
def test_repeated_heads_give_the_outputs_and_gradients_of_grouped_ones(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = packed("long")[-1]
    results = []
    for grouped in (True, False):
        monkeypatch.setattr(attention, "_takes_grouped_heads", lambda device, grouped=grouped: grouped)
        torch.manual_seed(0)
        tensors = [torch.randn(1, heads, sum(LENGTHS["long"]), 16, requires_grad=True) for heads in (4, 2, 2)]
        output = packed_attention(
            nn.Identity(), *tensors, None, sequence_bounds=bounds, scaling=0.2, sliding_window=window
        )[0]
        results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


#: dtype, width of a query's head, width of a value's head, whether the kernel for packed sequences takes them on a GPU.
ON_GPUS = (
    (torch.bfloat16, 128, 128, True),
    (torch.bfloat16, 256, 256, True),
    (torch.bfloat16, 264, 264, False),
    (torch.bfloat16, 60, 60, False),
    (torch.bfloat16, 192, 128, False),
    (torch.float32, 128, 128, False),
)


@pytest.mark.parametrize(("dtype", "width", "value_width", "fits"), ON_GPUS)
def test_a_gpu_gives_each_head_its_own_keys_where_the_kernel_for_packed_sequences_does_not_fit(
    dtype: torch.dtype, width: int, value_width: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int, int, bool]] = []

    def spy(query: Tensor, key: Tensor, value: Tensor, *, enable_gqa: bool, **_: Any) -> Tensor:
        calls.append((query.shape[1], key.shape[1], value.shape[1], enable_gqa))
        return query

    monkeypatch.setattr(attention, "scaled_dot_product_attention", spy)
    bounds = packed("long")[-1]
    with FakeTensorMode():
        query, key, value = (
            torch.empty(1, heads, sum(LENGTHS["long"]), size, device="cuda", dtype=dtype)
            for heads, size in ((4, width), (2, width), (2, value_width))
        )
        assert attention._fits_flash(query, value) == fits
        if not fits:
            packed_attention(nn.Identity(), query, key, value, None, sequence_bounds=bounds)
    # Otherwise torch would hold the scores of all pairs of tokens.
    assert calls == [(4, 4, 4, False)] * (0 if fits else len(LENGTHS["long"]))


@pytest.mark.parametrize("extra", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}])
def test_packed_attention_does_not_ignore_what_a_model_wants(extra: dict[str, Any]) -> None:
    _, ids, _, bounds = packed()
    heads = torch.randn(1, 4, ids.shape[1], 8)
    with pytest.raises(ValueError, match="Linear wants a mask, soft-capping or sinks, which packed attention lacks"):
        packed_attention(nn.Linear(1, 1), heads, heads, heads, None, sequence_bounds=bounds, **extra)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30))
def test_bounds_hold_every_token_once(lengths: list[int]) -> None:
    bounds = sequence_bounds(np.concatenate([np.arange(length) for length in lengths]), torch.device("cpu"))
    assert bounds.lengths == tuple(lengths)
    assert bounds.offsets.tolist() == [0, *np.cumsum(lengths)]
    assert bounds.offsets.dtype == torch.int32
    assert (bounds.rows is None) == (bounds.places is None) == (max(lengths) > 64)
    if bounds.rows is not None:
        assert torch.equal(bounds.rows.flatten()[bounds.places], torch.arange(sum(lengths)))
        for start, length, row in zip(bounds.offsets.tolist(), lengths, bounds.rows.tolist(), strict=False):
            assert row == [start + min(place, length - 1) for place in range(max(lengths))]
