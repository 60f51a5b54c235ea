"""A checkpoint as a Hugging Face folder, for transformers, vLLM and anything else that reads one.

    checkpoint (any ranks, any ZeRO stage) ──► LearnerState ──► shard by shard ──► DIR/*.safetensors
    model.path ──► config.json, tokenizer, generation_config.json       run ──► README.md

All on the CPU; one shard of weights is in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from actors.engines.deepspeed.state import LearnerState, open_learner_state
from maspo_dist.config import TrainConfig, load_config
from maspo_dist.errors import ConfigError, ModelError
from maspo_dist.models.facts import read_outline
from maspo_dist.models.folder import whole_folder
from maspo_dist.runs.checkpoint import CONFIG_FILE, LEARNER_FOLDER, CheckpointStore
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.step_folders import damage_of
from maspo_dist.views.model_card import model_card

_DTYPES = ("float32", "bfloat16")


def export_run(
    run: Path, to: Path, *, step: str | None = None, dtype: str | None = None, max_shard_size: str = "5GB"
) -> Path:
    """Writes the policy of a checkpoint of `run` to the folder `to`, which appears whole or not at all.

    step   a number, `best` (see checkpoint.keep_best), or None for the newest good one
    dtype  of the weights; None is model.dtype of the run, in which they equal the learner's to the last bit.
           float32 of a bfloat16 run are its master weights.

    Returns the checkpoint. Raises ConfigError where there is no such checkpoint, it is damaged, or `to` is not
    empty; ModelError where model.path, which config and tokenizer come from, is missing or is another model.
    """
    folder = RunFolder.open_for_reading(run)
    if dtype is not None and dtype not in _DTYPES:
        raise ConfigError(f"--dtype {dtype}: choose {' or '.join(_DTYPES)}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"--to {to} is not an empty folder: name one that is empty or not there yet")
    checkpoint = _checkpoint(folder, step)
    own_config = checkpoint / CONFIG_FILE
    config = load_config(own_config if own_config.is_file() else folder.config_path)
    dtype = dtype or config.model.dtype
    state = open_learner_state(checkpoint / LEARNER_FOLDER)
    settings = _settings(config, state, dtype)
    try:
        with whole_folder(to) as draft:
            _write_weights(draft, state, getattr(torch, dtype), max_shard_size)
            settings.save_pretrained(draft)
            _write_companions(draft, config, settings)
            card = model_card(folder, config, int(checkpoint.name.removeprefix("step-")), dtype)
            (draft / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--to {to} cannot be written: {error}") from None
    return checkpoint


def _checkpoint(folder: RunFolder, step: str | None) -> Path:
    store = CheckpointStore(folder.checkpoints_path)
    steps = store.steps()
    if not steps:
        raise ConfigError(f"{folder.path} has no checkpoint: train with checkpoint.every set")
    if step is None:
        newest, passed_over = store.newest()
        if newest is None:
            raise ConfigError(f"{folder.path} has no checkpoint that is whole: {'; '.join(passed_over)}")
        return newest
    known = ", ".join(map(str, steps))
    if step == "best":
        best = store.best()
        if best is None:
            raise ConfigError(f"{folder.path} has no checkpoint with a held-out score; its steps are {known}")
        chosen = best[0]
    elif step.isdigit() and int(step) in steps:
        chosen = int(step)
    else:
        raise ConfigError(f"{folder.path} has no checkpoint of step {step}; its steps are {known}")
    damage = damage_of(store.path(chosen))
    if damage is not None:
        raise ConfigError(f"checkpoint {store.path(chosen)} is damaged: {damage}; its steps are {known}")
    return store.path(chosen)


def _settings(config: TrainConfig, state: LearnerState, dtype: str) -> Any:
    """The config.json of model.path. Raises ModelError if the shapes of its parameters differ from `state`."""
    settings, model = read_outline(config.model)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(wanted)
    beside = set(model.state_dict()) - set(wanted) - tied
    if wanted != dict(state.shapes) or beside:
        differing = sorted({name for name, _ in set(wanted.items()) ^ set(state.shapes.items())} | beside)
        raise ModelError(
            f"model.path {config.model.path} is not the model that was trained: {differing[0]} differs; put it back"
        )
    # vLLM takes a folder without its architecture for an embedding model.
    settings.architectures = [type(model).__name__]
    settings.dtype = dtype
    return settings


def _write_weights(folder: Path, state: LearnerState, dtype: torch.dtype, max_shard_size: str) -> None:
    outline = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in state.shapes.items()}
    split = split_torch_state_dict_into_shards(outline, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        weights = {name: state.whole("weight", name).to(dtype) for name in names}
        save_file(weights, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_companions(folder: Path, config: TrainConfig, settings: Any) -> None:
    """Tokenizer, generation config, and model code where the model brings its own."""
    path = config.model.path
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    tokenizer.save_pretrained(folder)
    source = Path(path)
    for file in source.glob("*.py") if source.is_dir() else ():
        shutil.copy(file, folder)
    try:
        generation = transformers.GenerationConfig.from_pretrained(path)
    except OSError:
        generation = transformers.GenerationConfig.from_model_config(settings)
    text = json.dumps(generation.to_diff_dict(), indent=2, sort_keys=True) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
