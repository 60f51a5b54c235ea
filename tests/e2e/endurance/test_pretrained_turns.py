"""Logprobs of conversations with a pretrained model: what an engine reports, and what the learner computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.live_run import ROOT
from doubles.vllm_forks import run_script

from maspo_dist.demo.smollm2 import make_smollm2
from maspo_dist.errors import ModelError


def test_logprobs_of_three_turns_of_smollm2_are_the_learners(tmp_path: Path) -> None:
    try:
        model = make_smollm2(tmp_path / "smollm2")
    except ModelError as error:
        pytest.skip(f"{error}; `make smollm2-smoke` does both")
    gap, sampled, tokens = json.loads(run_script(ROOT / "tests/engines/pretrained_turns.py", model))
    print(f"largest gap {gap:.2g} over {sampled} sampled tokens of {tokens}")
    assert gap < 1e-4
    assert 6 * 3 <= sampled < tokens
