"""A checkpoint as a Hugging Face folder, for transformers, vLLM and anything else that reads one.

    checkpoint (any ranks, any ZeRO stage) ──► LearnerState ──► shard by shard ──► DIR/*.safetensors
    model.path ──► config.json, tokenizer, generation_config.json       run ──► README.md

All on the CPU; one shard of weights is in memory at a time, and with adapters or buffers the model of model.path.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion

from actors.commands.adapter_export import MergedWeights, merge, write_adapter
from actors.engines.deepspeed.policy import load_policy
from actors.engines.deepspeed.state import LearnerState, hugging_face_name, open_learner_state
from maspo_dist.config import ModelConfig, TrainConfig, load_config
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

    Adapters are merged into the weights. Returns the checkpoint. Raises ConfigError where there is no such checkpoint,
    it is damaged, `to` is not empty or `max_shard_size` is no size; ModelError where model.path, which config and
    tokenizer come from, is missing or is another model.
    """
    _require_size(max_shard_size)
    source = _open(run, to, step, dtype)
    config, lora = source.config, source.config.learner.lora
    weights = source.state if lora is None else merge(config, lora, source.state)
    settings, model = _outline(config, weights.shapes, source.dtype)
    buffers = buffers_beside(config.model, model)

    def write(draft: Path) -> None:
        write_weights(draft, weights, buffers, model, getattr(torch, source.dtype), max_shard_size)
        settings.save_pretrained(draft)
        _write_companions(draft, config, settings)

    _write(to, source, write, library="transformers")
    return source.checkpoint


def _require_size(text: str) -> None:
    number = re.fullmatch(r"(\d+(?:\.\d+)?) *[KMGT]B", text.strip(), re.IGNORECASE)
    if number is None or float(number[1]) == 0:
        raise ConfigError(f"--max-shard-size {text!r} is no size: write a number with its unit, such as 5GB or 500MB")


def export_adapter(run: Path, to: Path, *, step: str | None = None, dtype: str | None = None) -> Path:
    """Writes the adapters of a checkpoint of `run` as a folder that peft and vLLM load beside model.path.

    Otherwise as `export_run`. Raises ConfigError also where the run has no adapters.
    """
    source = _open(run, to, step, dtype)
    config, lora = source.config, source.config.learner.lora
    if lora is None:
        raise ConfigError(f"{run} was trained without learner.lora, so it has no adapters: leave out --adapter")
    dtype_of_adapters = getattr(torch, source.dtype)
    write = functools.partial(write_adapter, config=config, lora=lora, state=source.state, dtype=dtype_of_adapters)
    _write(to, source, write, library="peft")
    return source.checkpoint


def write_weights(
    folder: Path,
    source: LearnerState | MergedWeights,
    buffers: Mapping[str, torch.Tensor],
    model: Any,
    dtype: torch.dtype,
    max_shard_size: str,
) -> None:
    """Writes the weights and buffers of `model` as shards under the hub's names, which has one tensor per expert."""
    outline = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in source.shapes.items()}
    outline |= buffers
    split = split_torch_state_dict_into_shards(outline, max_shard_size=max_shard_size)
    places: dict[str, str] = {}
    for file, names in split.filename_to_tensors.items():
        ours = {name: buffers[name] if name in buffers else source.weight(name, dtype) for name in names}
        weights = revert_weight_conversion(model, ours)
        save_file({name: _alone(weight) for name, weight in weights.items()}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(weights, file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """An opened checkpoint; `dtype` is that of the files to write."""

    run: RunFolder
    checkpoint: Path
    config: TrainConfig
    state: LearnerState
    dtype: str


def _open(run: Path, to: Path, step: str | None, dtype: str | None) -> _Source:
    folder = RunFolder.open_for_reading(run)
    if dtype is not None and dtype not in _DTYPES:
        raise ConfigError(f"--dtype {dtype}: choose {' or '.join(_DTYPES)}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"--to {to} is not an empty folder: name one that is empty or not there yet")
    checkpoint = _checkpoint(folder, step)
    own_config = checkpoint / CONFIG_FILE
    config = load_config(own_config if own_config.is_file() else folder.config_path)
    state = open_learner_state(checkpoint / LEARNER_FOLDER)
    return _Source(run=folder, checkpoint=checkpoint, config=config, state=state, dtype=dtype or config.model.dtype)


def _write(to: Path, source: _Source, write: Callable[[Path], None], *, library: str) -> None:
    """Lets `write` fill the folder `to`, and adds the model card. Raises ConfigError if the disk fails."""
    try:
        with whole_folder(to) as draft:
            write(draft)
            step = int(source.checkpoint.name.removeprefix("step-"))
            card = model_card(source.run, source.config, step, source.dtype, library=library)
            (draft / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--to {to} cannot be written: {error}") from None


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


def _outline(config: TrainConfig, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> tuple[Any, Any]:
    """The config.json of model.path, and its model without weights. Raises ModelError if it has other `shapes`."""
    settings, model = read_outline(config.model)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if wanted != dict(shapes):
        differing = sorted({name for name, _ in set(wanted.items()) ^ set(shapes.items())})
        raise ModelError(
            f"model.path {config.model.path} is not the model that was trained: {differing[0]} differs; put it back"
        )
    # vLLM takes a folder without its architecture for an embedding model.
    settings.architectures = [type(model).__name__]
    settings.dtype = dtype
    return settings, model


def buffers_beside(config: ModelConfig, model: Any) -> dict[str, torch.Tensor]:
    """What `model` keeps beside its parameters, with the values of model.path: training does not change them."""
    names = set(model.state_dict()) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    kept = load_policy(config).state_dict() if names else {}
    return {name: buffer for own_name, buffer in kept.items() if (name := hugging_face_name(own_name)) in names}


def _alone(weight: torch.Tensor) -> torch.Tensor:
    """`weight` in memory of its own, as a file of safetensors needs it; the experts of a layer share their memory."""
    is_alone = weight.is_contiguous() and weight.untyped_storage().nbytes() == weight.nbytes
    return weight if is_alone else weight.clone(memory_format=torch.contiguous_format)


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
