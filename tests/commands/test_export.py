"""An exported checkpoint is the learner's policy, for transformers and for a fresh vLLM engine."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_runs import probes
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.commands.export import export_adapter, export_run
from maspo_dist.errors import ConfigError, ModelError
from maspo_dist.runs.checkpoint import CheckpointStore, Score
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.step_folders import damage_of, write_manifest


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def held(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "weights.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("untied", None), ("tied", "float32"), ("bf16", None), ("adapters", None), ("adapters_bf16", None)],
)
def test_exported_weights_equal_the_learners_bit_for_bit(
    folder: Path, tmp_path: Path, name: str, dtype: str | None
) -> None:
    export_run(folder / name, tmp_path / "out", dtype=dtype)
    exported, learners = weights(tmp_path / "out"), held(folder / name)
    assert set(exported) == set(learners)
    for key, tensor in exported.items():
        assert tensor.dtype == (torch.bfloat16 if name.endswith("bf16") else torch.float32)
        np.testing.assert_array_equal(tensor.float().numpy(), learners[key], err_msg=key)


@pytest.mark.parametrize(
    ("name", "architecture", "end"),
    [("untied", "Qwen2ForCausalLM", 0), ("tied", "Gemma3ForCausalLM", 1), ("adapters", "Qwen3ForCausalLM", 1)],
)
def test_transformers_loads_an_export_and_agrees_with_the_learner(
    folder: Path, tmp_path: Path, name: str, architecture: str, end: int
) -> None:
    export_run(folder / name, tmp_path / "out", max_shard_size="100KB")
    assert len(list((tmp_path / "out").glob("model-0000*-of-0000*.safetensors"))) > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (model.dtype, tokenizer.eos_token_id) == (torch.float32, end)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [architecture]
    assert (tmp_path / "out" / "generation_config.json").exists()
    with np.load(folder / name / "logprobs.npz") as answers, torch.no_grad():
        for sequence, answer in zip(probes(), answers.values(), strict=True):
            ids = torch.from_numpy(sequence.astype(np.int64))[None]
            logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            np.testing.assert_allclose(answer, logprobs.numpy(), atol=1e-5)


@pytest.mark.parametrize(("name", "model"), [("untied", "windows"), ("tied", "mixed")])
def test_an_export_has_the_tokenizer_of_its_model(folder: Path, tmp_path: Path, name: str, model: str) -> None:
    export_run(folder / name, tmp_path / "out")
    own, exported = (AutoTokenizer.from_pretrained(path) for path in (folder / model, tmp_path / "out"))
    text = "xy + 12 = x, xxy"
    ids = own(text)["input_ids"]
    assert len(ids) < len(text)
    assert exported(text)["input_ids"] == ids
    assert exported.decode(ids) == own.decode(ids)
    assert exported.special_tokens_map == own.special_tokens_map
    messages = [{"role": "user", "content": "1+1"}]
    chat = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat == "1+1="
    assert exported.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == chat


def test_exporting_a_run_of_no_steps_from_an_export_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    export_run(folder / "again", tmp_path / "out")
    first, second = folder / "exported", tmp_path / "out"
    assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())
    for file in first.iterdir():
        if file.name != "README.md":
            assert file.read_bytes() == (second / file.name).read_bytes(), file.name


def test_float32_of_a_bfloat16_run_are_its_masters(folder: Path, tmp_path: Path) -> None:
    export_run(folder / "bf16", tmp_path / "out", dtype="float32")
    learners = held(folder / "bf16")
    masters = weights(tmp_path / "out")
    assert any(not np.array_equal(masters[key].numpy(), value) for key, value in learners.items())
    for key, value in learners.items():
        np.testing.assert_array_equal(masters[key].bfloat16().float().numpy(), value)


def test_adapters_are_exported_under_the_names_of_peft(folder: Path, tmp_path: Path) -> None:
    export_adapter(folder / "adapters", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 8, 16)
    assert settings["base_model_name_or_path"] == str(folder / "qwen3")
    layers = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert settings["target_modules"] == layers
    adapters = weights(tmp_path / "out")
    assert len(adapters) == 2 * 7 * 2
    base, learners = load_file(folder / "qwen3" / "model.safetensors"), held(folder / "adapters")
    for name in [name for name in adapters if ".lora_B." in name]:
        layer = name.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
        product = adapters[name] @ adapters[name.replace(".lora_B.", ".lora_A.")]
        merged = base[f"{layer}.weight"] + settings["lora_alpha"] / settings["r"] * product
        np.testing.assert_allclose(merged.numpy(), learners[f"{layer}.weight"], atol=1e-7, err_msg=layer)
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nlibrary_name: peft\n")


def test_a_run_without_adapters_has_none_to_export(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"untied was trained without learner\.lora, .*: leave out --adapter"):
        export_adapter(folder / "untied", tmp_path / "out")


def test_the_model_card_states_configuration_and_scores(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "untied", tmp_path / "run")
    with RunFolder.resume(tmp_path / "run") as run:
        run.write_config((folder / "untied" / "config.yaml").read_text())
        run.write_metrics(0, {"eval/held_out/avg@1": 0.25})
        run.write_metrics(1, {"eval/held_out/avg@1": 0.5, "reward/mean": 0.4})
        run.write_metrics(2, {"eval/held_out/avg@1": 0.75})
    export_run(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| held_out | avg@1 | 0.2500 | 0.5000 |" in card
    assert "loss:\n    kind: maspo" in card


def refusal(run: Path, to: Path, **options: str) -> str:
    with pytest.raises((ConfigError, ModelError)) as caught:
        export_run(run, to, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_cannot_be_exported_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    run, to = folder / "untied", tmp_path / "out"
    assert "is not a run folder" in refusal(tmp_path, to)
    assert "no checkpoint of step 7; its steps are 1" in refusal(run, to, step="7")
    assert "no checkpoint with a held-out score; its steps are 1" in refusal(run, to, step="best")
    assert "--dtype float16: choose float32 or bfloat16" in refusal(run, to, dtype="float16")
    for size in ("5G", "100", "abc", "", "0GB", "-1GB"):
        assert f"--max-shard-size {size!r} is no size: write a number with" in refusal(run, to, max_shard_size=size)
    assert f"--to {folder} is not an empty folder" in refusal(run, folder)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "config.yaml", bare)
    assert "has no checkpoint: train with checkpoint.every set" in refusal(bare, to)
    assert not to.exists()


def test_a_damaged_checkpoint_is_not_exported_and_the_one_before_is(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "untied", run)
    shutil.copytree(run / "checkpoints" / "step-000001", run / "checkpoints" / "step-000002")
    (run / "checkpoints" / "step-000002" / "config.yaml").write_text("run: {}")
    assert "is damaged: config.yaml has" in refusal(run, tmp_path / "out", step="2")
    assert export_run(run, tmp_path / "out").name == "step-000001"


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_of_a_real_checkpoint_is_noticed(folder: Path, tmp_path: Path, damage: str) -> None:
    checkpoint = tmp_path / "step-000001"
    shutil.copytree(folder / "tied" / "checkpoints" / "step-000001", checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    assert len(files) >= 9
    draw = random.Random(0)
    for file in files:
        content = file.read_bytes()
        if damage == "flip":
            position = draw.randrange(len(content))
            flipped = content[position] ^ (1 << draw.randrange(8))
            file.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        elif damage == "cut":
            file.write_bytes(content[: -draw.randrange(1, len(content))])
        else:
            file.unlink()
        assert damage_of(checkpoint) is not None, file.name
        file.write_bytes(content)
        assert damage_of(checkpoint) is None


def test_the_checkpoint_with_the_best_score_can_be_exported(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "untied", run)
    shutil.copytree(run / "checkpoints" / "step-000001", run / "checkpoints" / "step-000002")
    store = CheckpointStore(run / "checkpoints")
    store.record_score(2, Score(metric="m", score=0.5))
    store.record_score(1, Score(metric="m", score=0.7))
    assert export_run(run, tmp_path / "out", step="best").name == "step-000001"


def test_another_model_under_the_same_path_is_refused(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "untied", run)
    shutil.rmtree(run / "checkpoints" / "step-000001" / "learner")
    shutil.copytree(
        folder / "tied" / "checkpoints" / "step-000001" / "learner", run / "checkpoints" / "step-000001" / "learner"
    )
    (run / "checkpoints" / "step-000001" / "manifest.json").unlink()
    write_manifest(run / "checkpoints" / "step-000001")
    assert "is not the model that was trained: lm_head.weight differs" in refusal(run, tmp_path / "out")
