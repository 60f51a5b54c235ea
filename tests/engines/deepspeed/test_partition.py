"""Under ZeRO-3 a model larger than one device starts: no rank ever puts it there whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles.ranks import Ranks, join
from doubles.tiny_learner import make_config, make_model
from torch import nn

from maspo_dist.config import TrainConfig

#: Merged over the learner section, whether a reference model is loaded.
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "zero 2": ({"zero_stage": 2}, False),
    "zero 3": ({"zero_stage": 3}, False),
    "with a reference": ({"zero_stage": 3}, True),
    "with adapters": ({"zero_stage": 3, "lora": {"rank": 4, "alpha": 8}}, True),
    "in host memory": ({"zero_stage": 3, "offload_parameters": "cpu", "offload_optimizer": "cpu"}, True),
}


def _config(
    folder: Path, learner: dict[str, Any], *, has_reference: bool = False, dtype: str = "float32"
) -> TrainConfig:
    return make_config(
        folder / "model",
        model={"path": str(folder / "model"), "dtype": dtype, "device": "cpu"},
        algorithm={"kl": {"coefficient": 0.1 if has_reference else 0.0}},
        learner={
            "ranks": 2,
            "threads": 1,
            "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
            **learner,
        },
    )


def _start_engines(rank: int, world_size: int, address: str, folder: Path) -> None:
    """Writes, by case, the elements of each module that is moved while an engine starts."""
    from actors.engines.deepspeed.engine import DeepSpeedEngine

    moved: list[int] = []
    move = nn.Module.to

    def spy(module: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        moved.append(sum(parameter.numel() for parameter in module.parameters()))
        return move(module, *arguments, **options)

    nn.Module.to = spy  # type: ignore[method-assign, assignment]
    elements = {}
    for case, (learner, has_reference) in CASES.items():
        moved.clear()
        config = _config(folder, learner, has_reference=has_reference)
        engine = DeepSpeedEngine(config, "cpu", rank, world_size, address)
        elements[case] = sum(moved)
    (folder / f"moved-{rank}.json").write_text(json.dumps(elements))
    _partition_policies(folder)
    engine.close()


def _partition_policies(folder: Path) -> None:
    from actors.engines.deepspeed.config import deepspeed_config
    from actors.engines.deepspeed.lora import add_adapters
    from actors.engines.deepspeed.partition import partition
    from actors.engines.deepspeed.policy import load_policy

    float32 = _config(folder, {"zero_stage": 3, "lora": {"rank": 4, "alpha": 8}})
    settings = deepspeed_config(_config(folder, {"zero_stage": 3}, dtype="bfloat16"))
    policy: Any = load_policy(float32.model)
    assert float32.learner.lora is not None
    adapters = add_adapters(policy, float32.learner.lora, float32.model.path, 0)
    before = list(policy.parameters())
    partition(policy, settings, torch.device("meta"))
    parameters = list(policy.parameters())
    assert all(parameter is other for parameter, other in zip(parameters, before, strict=True))
    assert policy.causal_lm.lm_head.weight is policy.causal_lm.get_input_embeddings().weight
    facts = {
        "devices of buffers": sorted({buffer.device.type for buffer in policy.buffers()}),
        "dtypes of buffers": sorted({str(buffer.dtype) for buffer in policy.buffers()}),
        "dtypes of parameters": sorted({str(parameter.ds_tensor.dtype) for parameter in parameters}),
        "largest share": max(parameter.ds_tensor.numel() / parameter.ds_numel for parameter in parameters),
        "trained": [parameter.requires_grad for parameter in parameters]
        == [any(parameter is adapter for adapter in adapters) for parameter in parameters],
    }
    (folder / "facts.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("partition")
    make_model(folder / "model", tied=True)
    join(Ranks(2, _start_engines, folder))
    return folder


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("case", CASES)
def test_under_zero_3_no_whole_model_is_moved_to_a_device(started: Path, case: str, rank: int) -> None:
    moved = json.loads((started / f"moved-{rank}.json").read_text())[case]
    assert (moved > 0) == (case == "zero 2")


def test_a_partitioned_model_has_its_buffers_on_the_device_and_its_parameters_shared_in_the_dtype_of_training(
    started: Path,
) -> None:
    assert json.loads((started / "facts.json").read_text()) == {
        "devices of buffers": ["meta"],
        "dtypes of buffers": ["torch.float32"],
        "dtypes of parameters": ["torch.bfloat16"],
        "largest share": 0.5,
        "trained": True,
    }
