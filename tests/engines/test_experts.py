"""vLLM's packed experts follow an update."""

from __future__ import annotations

import json
from pathlib import Path

from doubles.model_kinds import save_experts
from doubles.vllm_forks import run_script


def test_experts_are_packed_again_at_every_update(tmp_path: Path) -> None:
    script = Path(__file__).with_name("experts_reload.py")
    distances = json.loads(run_script(script, save_experts(tmp_path / "experts")))
    assert len(distances) == 3
    # Experts that were loaded but not packed are 4 away.
    assert max(distances) < 1e-5
