"""Adapters on one process, without DeepSpeed: what they compute, and what of them reaches an engine."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles.tiny_learner import VOCABULARY, make_model
from torch import Tensor, nn

from actors.engines.deepspeed.lora import LoraLinear, WithoutAdapters, add_adapters
from actors.engines.deepspeed.micro_batch import ForwardTensors, forward_tensors
from actors.engines.deepspeed.policy import Policy, load_policy
from actors.engines.deepspeed.weights import adapter_weights, lost_share, policy_weights, whole_weights
from actors.weights.layout import entry_of
from actors.weights.object_store import write_buckets
from maspo_dist.config import LoraConfig, ModelConfig
from maspo_dist.data.packing import pack_sequences
from maspo_dist.errors import ConfigError

LORA = LoraConfig(rank=4, alpha=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("lora") / "model", tied=True)


def adapted(model: Path, dtype: Any, lora: LoraConfig = LORA, seed: int = 0) -> tuple[Policy, list[nn.Parameter]]:
    policy = load_policy(ModelConfig(path=str(model), dtype=dtype, device="cpu"))
    return policy, add_adapters(policy, lora, str(model), seed)


def published(policy: Policy) -> int:
    """Fingerprint of what engines get, by the transport's own code."""
    tensors = ((weight.name, weight.value()) for weight in policy_weights(policy))
    return write_buckets(0, tensors, lambda bucket: bucket).fingerprint  # type: ignore[arg-type, return-value]


def step(parameters: list[nn.Parameter], lr: float, steps: int = 1) -> None:
    """As `steps` steps of AdamW whose gradients keep their random signs."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter += (lr * steps * signs).to(parameter.dtype)


def tokens() -> ForwardTensors:
    rng = np.random.default_rng(3)
    sequences = [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in (9, 30)]
    return forward_tensors(
        pack_sequences(sequences, [np.arange(1, sequence.size) for sequence in sequences]), torch.device("cpu")
    )


def logprobs(model: Any) -> Tensor:
    with torch.no_grad():
        values: Tensor = model(tokens=tokens(), temperature=1.0)[0]
    return values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_new_adapters_change_nothing(model: Path, dtype: str) -> None:
    plain = load_policy(ModelConfig(path=str(model), dtype=dtype, device="cpu"))  # type: ignore[arg-type]
    policy, trained = adapted(model, dtype)
    assert published(policy) == published(plain)
    assert torch.equal(logprobs(policy), logprobs(plain))
    # Seven linear layers in each of two.
    assert len(trained) == 2 * 7 * 2
    assert [name for name in policy.state_dict() if not name.endswith(("lora_A", "lora_B"))] == []
    assert len(policy.state_dict()) == len(trained)


def test_the_same_seed_draws_the_same_adapters_whatever_was_drawn_before(model: Path) -> None:
    _, first = adapted(model, "float32")
    torch.rand(7)
    _, second = adapted(model, "float32")
    _, other = adapted(model, "float32", seed=1)
    assert all(torch.equal(one, same) for one, same in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_only_the_named_layers_get_adapters(model: Path) -> None:
    policy, trained = adapted(model, "float32", LoraConfig(rank=2, targets=["q_proj", "down_proj"]))
    layers = [name for name, module in policy.named_modules() if isinstance(module, LoraLinear)]
    assert [name.rpartition(".")[2] for name in layers] == ["q_proj", "down_proj"] * 2
    assert sum(parameter.numel() for parameter in trained) == 2 * 2 * ((48 + 64) + (96 + 48))


def test_a_target_that_is_no_layer_is_refused_by_the_names_that_exist(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"targets names W_pack, but .* choose among down_proj, gate_proj, k_proj"):
        adapted(model, "float32", LoraConfig(targets=["q_proj", "W_pack"]))


def test_merged_weights_compute_what_the_learner_computes(model: Path) -> None:
    policy, trained = adapted(model, "float32")
    step(trained, 1e-3, 20)
    plain = load_policy(ModelConfig(path=str(model), dtype="float32", device="cpu"))
    before = logprobs(plain)
    held = dict(plain.named_parameters())
    with torch.no_grad():
        for weight in whole_weights(policy_weights(policy), lambda parameters: nullcontext()):
            held.pop(f"causal_lm.{weight.name}").copy_(weight.value())
    assert held == {}
    assert (logprobs(policy) - before).abs().max() > 0.1
    torch.testing.assert_close(logprobs(plain), logprobs(policy), atol=1e-5, rtol=0)


def test_adapters_alone_give_what_is_merged(model: Path) -> None:
    policy, trained = adapted(model, "float32", LoraConfig(rank=4, alpha=6))
    step(trained, 1e-3, 20)
    sent = {weight.name: weight.value() for weight in adapter_weights(policy)}
    assert [weight.entry for weight in adapter_weights(policy)] == [entry_of(*item) for item in sent.items()]
    for weight in policy_weights(policy):
        if weight.layer is not None:
            layer = weight.name.removesuffix(".weight")
            product = sent.pop(f"{layer}.lora_B.weight") @ sent.pop(f"{layer}.lora_A.weight")
            torch.testing.assert_close(weight.parameter + product, weight.value(), atol=1e-7, rtol=1e-6)
    assert sent == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_weights_are_announced_as_they_are_sent(model: Path, dtype: str) -> None:
    policy, trained = adapted(model, dtype)
    step(trained, 1e-3)
    plain = load_policy(ModelConfig(path=str(model), dtype=dtype, device="cpu"))  # type: ignore[arg-type]
    announced = [weight.entry for weight in policy_weights(policy)]
    assert announced == [entry_of(weight.name, weight.value()) for weight in policy_weights(policy)]
    assert announced == [weight.entry for weight in policy_weights(plain)]


def test_with_its_adapters_off_the_policy_is_the_model_it_started_from(model: Path) -> None:
    policy, trained = adapted(model, "float32")
    reference = WithoutAdapters(policy, policy)
    before = logprobs(policy)
    step(trained, 1e-2)
    after = logprobs(policy)
    assert torch.equal(logprobs(reference), before)
    assert torch.equal(logprobs(policy), after)
    assert not torch.equal(before, after)


def test_small_steps_are_lost_in_merged_weights_in_bfloat16_and_kept_in_adapters(model: Path) -> None:
    """Two steps of size 1e-5 beside weights of at least 0.02: what `learner/adapter_lost_share` is for."""
    policy, trained = adapted(model, "bfloat16")
    exact, trained_exactly = adapted(model, "float32")
    for one in (policy, exact):
        for weight in policy_weights(one):
            weight.parameter.data.copy_(weight.parameter.sign() * (weight.parameter.abs() + 0.02))
    sent, sent_exactly, before = published(policy), published(exact), logprobs(policy)
    sent_alone = {weight.name: weight.value().clone() for weight in adapter_weights(policy)}
    step(trained, 1e-5, 2)
    step(trained_exactly, 1e-5, 2)
    assert not torch.equal(logprobs(policy), before)
    assert published(policy) == sent
    # The scale is 2, so that B times the scale is exact too.
    kept = {weight.name: weight.value() for weight in adapter_weights(policy)}
    assert all(not torch.equal(kept[name], values) for name, values in sent_alone.items())
    assert all(torch.equal(w.value(), w.parameter * w.scale) for w in adapter_weights(policy))
    assert lost_share(policy_weights(policy)) == pytest.approx(1.0)
    assert published(exact) != sent_exactly
    assert lost_share(policy_weights(exact)) < 0.01


def test_the_lost_share_falls_as_the_adapters_grow(model: Path) -> None:
    policy, trained = adapted(model, "bfloat16")
    assert lost_share(policy_weights(policy)) == 0.0
    shares = []
    for _ in range(4):
        step(trained, 3e-3)
        shares.append(lost_share(policy_weights(policy)))
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.1
