"""What users name as a model and is none, or not quite: each is one sentence that says what it is and what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles.untrained_demo import save_untrained_demo
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from maspo_dist.config import ModelConfig
from maspo_dist.errors import HubUnreachableError, ModelError
from maspo_dist.models.facts import hub_is_reachable, read_model_facts, read_tokenizer
from maspo_dist.models.path import require_model
from maspo_dist.models.support import engine_obstacle


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_demo(tmp_path_factory.mktemp("other") / "model")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def refusal(path: Path | str, **settings: Any) -> str:
    with pytest.raises(ModelError) as refused:
        read_model_facts(ModelConfig(path=str(path), **settings))
    message = str(refused.value)
    assert message.startswith(f"model.path {path}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("file", "fragment"),
    [
        ("README.md", "holds no config.json, so it is not a Hugging Face model folder"),
        ("adapter_config.json", "holds a LoRA adapter (adapter_config.json): merge it into its base model"),
        ("model-q4_0.gguf", "but GGUF weights, which cannot be trained: name the Hugging Face folder"),
        ("ledger.jsonl", "but a run of maspo-dist: write its model by `maspo-dist export RUN --to FOLDER`"),
        ("learner/layout.json", "but a checkpoint of maspo-dist: write its model by `maspo-dist export RUN"),
        ("snapshots/0a1b/config.json", "but a model of the hub's cache: name the folder in its snapshots"),
        ("zero_to_fp32.py", "but a checkpoint of DeepSpeed: convert it by its zero_to_fp32.py"),
        ("__0_0.distcp", "but a checkpoint of torch.distributed: export it by the trainer that wrote it"),
        ("mp_rank_00/model_optim_rng.pt", "but a checkpoint of Megatron or DeepSpeed: export it by the trainer"),
        ("consolidated.00.pth", "but weights in Meta's format: convert them by transformers'"),
        ("checkpoint-500/config.json", "so it is not a Hugging Face model folder; did you mean {folder}/checkpoint-5"),
    ],
)
def test_a_folder_of_another_kind_is_named_for_what_it_is(tmp_path: Path, file: str, fragment: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("{}")
    assert fragment.replace("{folder}", str(tmp_path)) in refusal(tmp_path)


def test_weights_of_one_file_are_no_model(folder: Path) -> None:
    assert "is a file: name the folder of the model" in refusal(folder / "model.safetensors")


def test_an_adapter_beside_a_model_is_refused_too(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}')
    assert "holds a LoRA adapter" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "config.json is empty: copy it from the model again"),
        (" \n", "config.json is empty"),
        ("[]", "config.json holds a list where an object is wanted"),
        ('"model"', "config.json holds a str where an object is wanted"),
        ("{", "config.json is not JSON (Expecting property name"),
        ("{}", "no causal language model can be read there"),
        ('{"model_type": ["qwen3"]}', "no causal language model can be read there"),
    ],
)
def test_a_config_that_is_no_configuration(folder: Path, text: str, fragment: str) -> None:
    (folder / "config.json").write_text(text)
    assert fragment in refusal(folder)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"num_hidden_layers": 0, "layer_types": []}, "config.json says that it has 0 layers"),
        (
            {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
            "the weights hold model.layers.2.input_layernorm.weight (22 in all), which the model of config.json lacks",
        ),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "names the class Qwen3ForSequenceClassification"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "names the class Qwen2ForRewardModel, which is no causal"),
        (
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2, "layer_types": None},
            "only some layers of a Qwen3ForCausalLM have a sliding window, which vLLM does not support: set",
        ),
    ],
)
def test_a_config_that_neither_engine_nor_learner_can_use(folder: Path, changes: dict[str, Any], fragment: str) -> None:
    edit(folder / "config.json", **changes)
    assert fragment in refusal(folder)


def test_a_head_beside_the_model_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | {"v_head.summary.weight": torch.zeros(1, 128)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "the weights hold v_head.summary.weight (1 in all)" in refusal(folder)


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "/data/model.safetensors", "shards/1.safetensors"])
def test_shards_outside_of_the_folder_are_refused(folder: Path, place: str) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"model.safetensors.index.json names {place!r}, which is not a file of this folder" in refusal(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"lm_head.weight": 3}}', "{"])
def test_an_index_that_is_none_is_refused(folder: Path, index: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    refusal(folder)


def test_code_of_the_models_own_needs_consent(folder: Path) -> None:
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    edit(folder / "config.json", model_type="own", auto_map=own)
    assert "set model.trust_remote_code to true if you trust that code" in refusal(folder)
    assert "no causal language model can be read there" in refusal(folder, trust_remote_code=True)


def test_an_end_token_that_the_model_lacks_is_refused(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(folder)
    message = refusal(folder)
    assert "ends responses by '<|im_end|>' with id 102, but the model has embeddings for ids below 102" in message


def test_a_tokenizer_that_transformers_loads_without_its_spaces_is_refused(folder: Path) -> None:
    split = r"\p{N}|[^\s\p{L}\p{N}]+|\s*\p{L}+|\s+"
    tokenizer = Tokenizer(models.BPE())
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"])
    tokenizer.train_from_iterator(["Hello world, let us add 12"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    # As the folders of DeepSeek-R1-Distill-Llama have it.
    sizes = LlamaConfig(vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(sizes).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast", bos_token="<s>", eos_token="</s>")
    message = refusal(folder)
    assert "transformers reads 'Hello world, let us add 12' as 'Helloworld,letusadd12'" in message
    assert 'set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json' in message
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert read_model_facts(ModelConfig(path=str(folder))).tokenizer.decode([1]) == "</s>"


def test_a_folder_whose_only_tokenizer_is_of_mistral_common_is_refused(tmp_path: Path) -> None:
    MistralConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2).save_pretrained(
        tmp_path
    )
    (tmp_path / "tekken.json").symlink_to(str(files("mistral_common") / "data/tekken_240911.json"))
    with pytest.raises(
        ModelError, match=r"reads its tekken\.json by mistral_common.*use a copy of the folder with tok"
    ):
        read_tokenizer(ModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "fragment"),
    [("", "generation_config.json is empty"), ("[]", "generation_config.json holds a list"), ("{", "is not JSON")],
)
def test_a_generation_config_that_is_none_is_refused(folder: Path, text: str, fragment: str) -> None:
    (folder / "generation_config.json").write_text(text)
    assert fragment in refusal(folder)


def test_a_missing_generation_config_does_no_harm(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert read_model_facts(ModelConfig(path=str(folder))).training_obstacle is None


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """No hub answers. The result caches the good model under a name, and returns its folder in the cache."""
    monkeypatch.setattr("maspo_dist.models.facts.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("maspo_dist.models.facts.constants.HF_HUB_CACHE", str(tmp_path))
    hub_is_reachable.cache_clear()

    def cache(name: str) -> Path:
        model = tmp_path / f"models--{name.replace('/', '--')}"
        (model / "refs").mkdir(parents=True)
        (model / "refs" / "main").write_text("0a1b")
        return Path(shutil.copytree(base, model / "snapshots" / "0a1b"))

    yield cache
    hub_is_reachable.cache_clear()


def test_a_misspelt_hub_name_is_compared_with_what_is_cached(offline: Callable[[str], Path]) -> None:
    offline("Qwen/Qwen3-0.6B")
    with pytest.raises(
        HubUnreachableError, match=r"does not hold the causal .*; did you mean Qwen/Qwen3-0\.6B\? Or set"
    ):
        read_model_facts(ModelConfig(path="Qwen/Qwen3-0.6"))


def test_a_cached_model_is_read_without_the_hub_and_a_part_that_is_missing_is_named(
    offline: Callable[[str], Path],
) -> None:
    folder = offline("Qwen/Qwen3-0.6B")
    assert read_model_facts(ModelConfig(path="Qwen/Qwen3-0.6B")).embeddings == 102
    (folder / "model.safetensors").unlink()
    with pytest.raises(HubUnreachableError, match=r"its cache does not hold the weights; set model\.path to"):
        read_model_facts(ModelConfig(path="Qwen/Qwen3-0.6B"))


def test_windows_in_all_layers_or_in_none_are_fine() -> None:
    for settings in (
        Qwen2Config(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, max_window_layers=0),
        Qwen2Config(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, max_window_layers=32),
        Qwen2Config(architectures=["Qwen2ForCausalLM"], use_sliding_window=False, max_window_layers=9),
    ):
        assert engine_obstacle(settings) is None


def test_a_folder_that_may_not_be_read_is_named_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", fail)
    said = r"^model\.path secret/m cannot be read \(Permission denied\): ask its owner for permission, or name another"
    with pytest.raises(ModelError, match=said):
        require_model("secret/m")
