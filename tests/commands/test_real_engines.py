"""Real vLLM engines load the kinds of models that users bring, and prove what is published to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.vllm_forks import run_script
from transformers import AutoTokenizer

from actors.commands.export import export_adapter, export_run
from maspo_dist.config import ModelConfig
from maspo_dist.models.facts import read_model_facts

#: run → its model: each combines some of windows, tied weights, shards, `.bin` files, tokenizers of other files.
MODELS = {"untied": "windows", "tied": "mixed"}
#: Engine and learner both compute in float32.
LARGEST_GAP = 1e-4


@pytest.fixture(scope="module")
def engines(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What real_engines.py found."""
    export, adapter = (tmp_path_factory.mktemp("engines") / name for name in ("out", "adapter"))
    export_run(folder / "tied", export)
    export_adapter(folder / "adapters", adapter)
    script = Path(__file__).with_name("real_engines.py")
    found: dict[str, Any] = json.loads(run_script(script, folder, export, adapter))
    return found


@pytest.mark.parametrize("run", MODELS)
def test_learner_and_engine_load_the_same_model(folder: Path, engines: dict[str, Any], run: str) -> None:
    facts = read_model_facts(ModelConfig(path=str(folder / MODELS[run])))
    assert (facts.training_obstacle, facts.size.context_tokens, facts.embeddings) == (None, 512, 96)
    assert engines[run]["loaded"] < LARGEST_GAP


@pytest.mark.parametrize("run", MODELS)
def test_a_publish_is_proven_and_served(folder: Path, engines: dict[str, Any], run: str) -> None:
    found = engines[run]
    with np.load(folder / run / "loaded_logprobs.npz") as before, np.load(folder / run / "logprobs.npz") as after:
        assert max(np.abs(before[name] - after[name]).max() for name in before.files) > 100 * LARGEST_GAP
    assert found["published"] < LARGEST_GAP
    tokenizer = AutoTokenizer.from_pretrained(folder / MODELS[run])
    assert found["prompt"] == tokenizer("xy + 12 = x, xxy")["input_ids"]
    assert found["text"] == tokenizer.decode(found["response"], skip_special_tokens=True)


@pytest.mark.parametrize("run", MODELS)
def test_a_broadcast_is_proven_and_a_failed_broadcast_leaves_an_engine_that_takes_the_next(
    engines: dict[str, Any], run: str
) -> None:
    found = engines[run]
    [*whole, by_learner, by_engine] = found["ends"]
    assert whole == [None, None]
    assert "abandoned" in by_learner
    assert "abandoned" in by_engine
    assert found["broadcast"] < LARGEST_GAP
    assert found["stale"] == []


@pytest.mark.parametrize("run", MODELS)
def test_shared_weights_are_proven_and_memory_that_is_gone_leaves_an_engine_that_takes_the_next(
    engines: dict[str, Any], run: str
) -> None:
    found = engines[run]
    was_read, was_gone = found["reads"]
    assert was_read is None
    assert "memory that a learner rank shares on cpu cannot be opened" in was_gone
    assert found["shared"] < LARGEST_GAP
    assert found["stale"] == []


def test_a_fresh_vllm_process_gives_the_learners_logprobs_of_an_export(engines: dict[str, Any]) -> None:
    assert engines["export"] < LARGEST_GAP


def test_vllm_loads_an_exported_adapter_and_gives_the_learners_logprobs(folder: Path, engines: dict[str, Any]) -> None:
    run = folder / "adapters"
    with np.load(run / "loaded_logprobs.npz") as before, np.load(run / "logprobs.npz") as after:
        assert max(np.abs(before[name] - after[name]).max() for name in before.files) > 100 * LARGEST_GAP
    assert engines["base"] < LARGEST_GAP
    assert engines["adapter"] < LARGEST_GAP
