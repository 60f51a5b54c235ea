"""What the rollout engine asks of vLLM, at its start and when weights change, and what vLLM's worker does then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.vllm_forks import run_script

SCRIPT = Path(__file__).with_name("vllm_requests.py")


@pytest.fixture(scope="module")
def found() -> dict[str, list[object]]:
    """What the engine asks, by rollout.in_flight_kv and once; what a load does, by device, and what a detour costs."""
    printed: dict[str, list[object]] = json.loads(run_script(SCRIPT))
    return printed


@pytest.mark.parametrize(
    ("in_flight_kv", "asked"),
    [
        ("recompute", [["keep", True], None] * 3),
        ("keep", [["keep", False], "1", ["keep", False], "2", ["keep", False], "3"]),
    ],
)
def test_kept_keys_and_values_are_met_by_requests_under_the_same_weights_alone(
    found: dict[str, list[object]], in_flight_kv: str, asked: list[object]
) -> None:
    assert found[in_flight_kv] == asked


@pytest.mark.parametrize(("device", "done"), [("cuda:1", ["receive", "wait for cuda:1"]), ("cpu", ["receive"])])
def test_a_load_ends_when_the_gpu_has_copied_the_weights(
    found: dict[str, list[object]], device: str, done: list[str]
) -> None:
    assert found[device] == done


def test_an_engine_has_the_limits_of_offline_generation_and_gets_logprobs_as_arrays(
    found: dict[str, list[object]],
) -> None:
    assert found["once"] == ["LLM_CLASS", [True, True]]


def test_a_read_back_multiplies_the_columns_that_it_reads_and_not_the_tensors(found: dict[str, list[object]]) -> None:
    assert found["detour"] == [300 * 8 + 200, []]


def test_an_engine_in_which_a_call_fails_is_lost(found: dict[str, list[object]]) -> None:
    assert found["failed"] == (
        "the engine's process failed: Call to collective_rpc method failed: collective_rpc should not be called on "
        "follower node"
    )
