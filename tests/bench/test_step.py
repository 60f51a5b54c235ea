"""The lines of the step bench, from the rows of a run."""

from __future__ import annotations

import pytest

from actors.bench.step import _lines

_STEP = {
    "time/step_s": 4.0,
    "time/generate_s": 1.5,
    "time/verify_s": 0.5,
    "time/update_s": 1.6,
    "time/publish_s": 0.2,
    "sync/pause_s": 0.1,
    "learner/tokens": 1500.0,
    "learner/tokens_per_s": 1000.0,
}


def test_each_phase_is_compared_with_what_vllm_and_the_model_need_of_it() -> None:
    lines = {line.case.partition(":")[0]: line for line in _lines([_STEP], bare_s=1.2)}
    assert {case: (line.value, line.against) for case, line in lines.items()} == {
        "demo, generate and verify": (1.2, 2.0),
        "demo, update": (1.5, 1.6),
        "demo, publish": (0.1, 0.2),
        "demo, whole step": (pytest.approx(2.8), 4.0),
    }


def test_the_median_step_counts() -> None:
    slow = {**_STEP, "time/step_s": 40.0, "time/update_s": 30.0}
    assert [line.against for line in _lines([_STEP, slow, _STEP], bare_s=1.2)] == [2.0, 1.6, 0.2, 4.0]
