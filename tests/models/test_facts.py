"""A model that cannot serve is refused in one sentence that names the file or key, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles.model_kinds import save_experts
from doubles.untrained_demo import save_untrained_demo
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BloomConfig, Gemma2Config, GPT2Config, MambaConfig, Qwen2_5_VLConfig, T5Config

from maspo_dist.config import ModelConfig
from maspo_dist.data.prompts import PromptSet
from maspo_dist.errors import ConfigError, ModelError
from maspo_dist.models.facts import ModelFacts, hub_is_reachable, read_model_facts
from maspo_dist.planning.preflight import require_engine_length, require_known_ids
from maspo_dist.types import Prompt

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3087467144\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_demo(tmp_path_factory.mktemp("facts") / "model")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def facts(folder: Path) -> ModelFacts:
    return read_model_facts(ModelConfig(path=str(folder)))


def refusal(folder: Path) -> str:
    """The sentence that refuses to train the model."""
    try:
        message = facts(folder).training_obstacle or ""
    except ModelError as error:
        message = str(error)
    assert message.startswith(f"model.path {folder}")
    assert "\n" not in message
    return message


def edit(file: Path, **changes: Any) -> None:
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (tree | changes).items() if value is not None}))


def keep_weights(folder: Path, *, without: str) -> None:
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if without not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_good_model_has_no_obstacle(base: Path) -> None:
    found = facts(base)
    assert (found.training_obstacle, found.embeddings, found.size.context_tokens) == (None, 102, 256)
    assert found.size.parameters == sum(tensor.numel() for tensor in load_file(base / "model.safetensors").values())


CLASSES: dict[str, tuple[Any, str]] = {
    "vision": (Qwen2_5_VLConfig(architectures=["Qwen2_5_VLForConditionalGeneration"]), "no causal language model"),
    "encoder and decoder": (T5Config(architectures=["T5ForConditionalGeneration"]), "no causal language model"),
    "state space": (MambaConfig(num_hidden_layers=2, architectures=["MambaForCausalLM"]), "whose state would leak"),
    "masked": (BertConfig(num_hidden_layers=2, architectures=["BertForMaskedLM"]), "which is no causal language"),
    "distance bias": (BloomConfig(n_layer=2, architectures=["BloomForCausalLM"]), "takes no position_ids"),
    "capped logits": (
        Gemma2Config(num_hidden_layers=2, architectures=["Gemma2ForCausalLM"]),
        "final_logit_softcapping",
    ),
    "without an architecture": (GPT2Config(n_layer=2), "names no architectures"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_another_class_of_model_is_refused(folder: Path, kind: str) -> None:
    config, fragment = CLASSES[kind]
    config.save_pretrained(folder)
    assert fragment in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        (
            {"architectures": ["Qwen3ForSequenceClassification"]},
            "names the class Qwen3ForSequenceClassification, which is no causal language model",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "quantized weights"),
        ({"model_type": "qwen99"}, "qwen99"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
        ({"num_attention_heads": 0}, "no causal language model can be read there"),
        ({"vocab_size": -3}, "no causal language model can be read there"),
        ({"vocab_size": 60}, "has the shape [102, 128] in the weights and [60, 128] by config.json"),
        ({"hidden_size": 64}, "by config.json: use the config.json that belongs to the weights"),
    ],
)
def test_another_config_is_refused(folder: Path, changes: dict[str, Any], fragment: str) -> None:
    edit(folder / "config.json", **changes)
    assert fragment in refusal(folder)


def pointer(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(LFS_POINTER)


def cut_off(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def one_shard_of_two(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights can be read there"),
    "weights are a pointer": (pointer("model.safetensors"), "model.safetensors is a Git LFS pointer"),
    "tokenizer is a pointer": (pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
    "config is a pointer": (pointer("config.json"), "config.json is a Git LFS pointer"),
    "weights cut off": (cut_off, "no weights can be read there"),
    "weights empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "no weights can be read there"),
    "shard missing": (one_shard_of_two, "model-00002-of-00002.safetensors"),
    "layer missing": (lambda folder: keep_weights(folder, without="layers.3."), "the weights lack model.layers.3."),
    "head missing": (
        lambda folder: keep_weights(folder, without="lm_head"),
        "lack lm_head.weight (1 in all)",
    ),
    "no tokenizer": (without_tokenizer, "holds no tokenizer (merges.txt or tokenizer.json or vocab.json)"),
    "tokenizer is not JSON": (lambda folder: (folder / "tokenizer.json").write_text("{"), "no tokenizer can be read"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds a list"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_or_broken_file_is_named(folder: Path, kind: str) -> None:
    damage, fragment = FILES[kind]
    damage(folder)
    assert fragment in refusal(folder)


def tied(folder: Path) -> None:
    edit(folder / "config.json", tie_word_embeddings=True)
    keep_weights(folder, without="lm_head")


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("change", [tied, pickled])
def test_tied_and_pickled_weights_are_read(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    assert facts(folder).training_obstacle is None


@pytest.mark.parametrize(
    ("file", "changes", "context", "key"),
    [
        ("config.json", {"max_position_embeddings": 128}, 128, "max_position_embeddings of config.json"),
        ("tokenizer_config.json", {"model_max_length": 64}, 64, "model_max_length of tokenizer_config.json"),
        (
            "config.json",
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
            1024,
            "max_position_embeddings",
        ),
        (
            "config.json",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 256,
                    "rope_theta": 10000.0,
                }
            },
            256,
            "max_position_embeddings of config.json, which yarn with factor 4 allows to be 1024",
        ),
    ],
)
def test_the_context_is_what_the_engine_uses_and_its_key_is_named(
    folder: Path, file: str, changes: dict[str, Any], context: int, key: str
) -> None:
    edit(folder / file, **changes)
    size = facts(folder).size
    assert size.context_tokens == context
    assert key in size.context_key


def test_a_prompt_with_an_id_past_the_embedding_is_refused(base: Path) -> None:
    found = facts(base)
    ids = np.array([3, 102], dtype=np.int32)
    prompt = Prompt(prompt_id="add-7", token_ids=ids, reference="1", source="demo")
    with pytest.raises(ModelError, match=r"prompt add-7 holds the token None with id 102, .* ids below 102: resize"):
        require_known_ids(PromptSet(prompts=(prompt,), dropped_overlong=0), found, "m")


@pytest.mark.parametrize(
    ("length", "fragment"),
    [
        (64, "prompts and responses add up to 168, but rollout.engine.max_model_len is 64: set it to 168 or remove it"),
        (100_000, "max_model_len is 100000, but the model holds 256 (max_position_embeddings of config.json): lower"),
        ("8k", "max_model_len must be a whole number of tokens, got '8k'"),
        (True, "max_model_len must be a whole number of tokens, got True"),
    ],
)
def test_an_engine_length_that_does_not_fit_is_refused(base: Path, length: object, fragment: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_engine_length({"max_model_len": length}, 168, "prompts and responses add up to 168", facts(base).size)
    assert fragment in str(refused.value)


@pytest.mark.parametrize("length", [None, -1, 168, 256])
def test_an_engine_length_that_fits_is_accepted(base: Path, length: int | None) -> None:
    require_engine_length({"max_model_len": length}, 168, "", facts(base).size)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5h://127.0.0.1:1080"),
        ("https_proxy", "http://127.0.0.1:9"),
        ("https_proxy", "127.0.0.1:9"),
        ("https_proxy", "nonsense://127.0.0.1:9"),
    ],
)
def test_a_proxy_that_does_not_work_means_that_the_hub_is_not_reachable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setattr("maspo_dist.models.facts.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv(name, value)
    hub_is_reachable.cache_clear()
    try:
        assert not hub_is_reachable()
    finally:
        hub_is_reachable.cache_clear()


def test_experts_that_do_not_compute_a_token_are_counted_apart(tmp_path: Path) -> None:
    size = facts(save_experts(tmp_path / "experts")).size
    # Two layers, of whose 8 experts 6 are idle; an expert has three matrices of 64 x 32.
    assert size.idle_parameters == 2 * 6 * 3 * 64 * 32
    assert size.active_parameters == size.parameters - size.idle_parameters
    assert size.intermediate == 2 * 32
