"""What DeepSpeed is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from doubles.tiny_learner import make_config

from actors.engines.deepspeed.config import deepspeed_config, reference_config


def told(dtype: str = "float32", **learner: Any) -> dict[str, Any]:
    return deepspeed_config(make_config(Path("m"), model={"path": "m", "dtype": dtype}, learner=learner))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_is_passed_through(stage: int) -> None:
    settings: dict[str, Any] = {"zero_stage": stage, "offload_optimizer": "cpu"}
    if stage == 3:
        settings["offload_parameters"] = "cpu"
    zero = told(**settings)["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu"}
    assert zero.get("offload_param") == ({"device": "cpu"} if stage == 3 else None)


def test_offload_is_off_by_default() -> None:
    assert not {"offload_optimizer", "offload_param"} & told()["zero_optimization"].keys()


def test_the_deepspeed_section_is_merged_over_ours() -> None:
    ours = told(zero_stage=2)
    merged = told(
        zero_stage=2,
        deepspeed={
            "zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 1000},
            "wall_clock_breakdown": True,
        },
    )
    assert merged.pop("wall_clock_breakdown") is True
    assert merged["zero_optimization"] == ours["zero_optimization"] | {"overlap_comm": True, "reduce_bucket_size": 1000}
    assert merged.keys() == ours.keys()


def test_bfloat16_adds_gradients_up_in_float32_over_micro_batches_and_ranks() -> None:
    assert told("bfloat16")["data_types"] == {"grad_accum_dtype": "fp32"}
    assert told("bfloat16")["communication_data_type"] == "fp32"
    assert "communication_data_type" not in told("float32")
    assert told("bfloat16", zero_stage=0)["zero_optimization"]["stage"] == 1
    assert told("float32", zero_stage=0)["zero_optimization"]["stage"] == 0


def test_a_partitioned_reference_shares_what_concerns_its_parameters() -> None:
    config = make_config(
        Path("m"),
        learner={
            "zero_stage": 3,
            "offload_parameters": "cpu",
            "deepspeed": {"zero_optimization": {"stage3_max_live_parameters": 7, "overlap_comm": True}},
        },
    )
    assert reference_config(config)["zero_optimization"] == {
        "stage": 3,
        "stage3_max_live_parameters": 7,
        "offload_param": {"device": "cpu"},
    }
