"""With tied embeddings, vLLM on CPU computes logits from a packed copy of the head that an update leaves as it was.

Here the re-packing is taken away (`plants/sitecustomize.py`), in the engine's own process, as a change in vLLM
would; nothing else of the run is touched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doubles.live_run import Launcher
from doubles.tiny_recipe import TINY
from transformers import Qwen3ForCausalLM

from maspo_dist.demo import DemoFiles, draw_problems
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.demo.warm_start import warm_start
from maspo_dist.models.folder import save_model_folder

PLANTS = Path(__file__).parent / "plants"


@pytest.fixture
def tied_model(tiny_demo: DemoFiles, tmp_path: Path) -> Path:
    """The tiny demo's model, its embeddings tied; the demo makes the same problems of the same seed."""
    tokenizer = make_tokenizer()
    config = make_model(tokenizer, 0).config
    config.tie_word_embeddings = True
    model = Qwen3ForCausalLM(config)
    rng = np.random.default_rng(0)
    train, heldout = draw_problems(TINY.train_problems, TINY.heldout_problems, TINY.digits, rng)
    warm_start(model, tokenizer, train, heldout, TINY.warm_start, rng)
    save_model_folder(tmp_path / "tied", model, tokenizer)
    return tmp_path / "tied"


def test_a_stale_lm_head_stops_the_run_by_its_name(launcher: Launcher, tied_model: Path) -> None:
    overrides = (f"model.path={tied_model}", "learner.lr=1e-4")
    run = launcher.start("stale", *overrides, environment={"PYTHONPATH": str(PLANTS)})

    assert run.finish() == 1
    assert "WeightSyncError: rollout worker 0 does not hold policy version 0: a publish does not reach" in run.output
    assert "lm_head.weight (the LM head's packed copy)" in run.output
    assert "Traceback" not in run.output
    assert run.metrics == [], "the policy was scored although its weights were never proven"
    assert [row["kind"] for row in run.folder.read_events()] == ["run_failed"]
