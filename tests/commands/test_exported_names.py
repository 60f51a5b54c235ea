"""An export has the names and values of the hub, whichever names transformers trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from doubles.model_kinds import save_buffers, save_experts, save_mixed, save_windows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.commands.export import buffers_beside, write_weights
from actors.engines.deepspeed.state import LearnerState, Span
from maspo_dist.config import ModelConfig
from maspo_dist.models.facts import read_outline


def trained(folder: Path) -> tuple[dict[str, torch.Tensor], LearnerState]:
    """The parameters of the model in `folder`, and a checkpoint that holds them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    spans = {
        name: [Span(start=0, count=parameter.numel(), flat=parameter.reshape(-1), flat_start=0)]
        for name, parameter in parameters.items()
    }
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    return parameters, LearnerState(dtype="float32", batches=1, step=1, shapes=shapes, spans={"weight": spans})


@pytest.mark.parametrize("save", [save_windows, save_mixed, save_experts, save_buffers])
@pytest.mark.parametrize("max_shard_size", ["60KB", "5GB"])
def test_an_export_has_the_names_and_values_of_its_model(
    tmp_path: Path, save: Callable[[Path], Path], max_shard_size: str
) -> None:
    folder, out = save(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    parameters, state = trained(folder)
    config = ModelConfig(path=str(folder), dtype="float32", device="cpu")
    settings, model = read_outline(config)
    buffers = buffers_beside(config, model)
    write_weights(out, state, buffers, model, torch.float32, max_shard_size)
    settings.architectures = [type(model).__name__]
    settings.save_pretrained(out)
    exported = {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}
    if save is save_experts:
        assert sum(".experts." in name for name in exported) == 2 * 8 * 3
    else:
        assert set(exported) == set(parameters) | set(buffers)
    assert len(buffers) == (6 if save is save_buffers else 0)
    own = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for name, tensor in own.items():
        assert torch.equal(exported[name], tensor), name
    index = out / "model.safetensors.index.json"
    assert index.exists() == (max_shard_size == "60KB")
    if index.exists():
        assert set(json.loads(index.read_text())["weight_map"]) == set(exported)
    again, _ = trained(out)
    assert again.keys() == parameters.keys()
    assert all(torch.equal(again[name], parameter) for name, parameter in parameters.items())
