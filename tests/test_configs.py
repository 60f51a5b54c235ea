"""Every configuration that comes with the project loads, and says what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from maspo_dist.config import TrainConfig, load_config
from maspo_dist.data.rows import RowFields, read_rows

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("compare_"))
HELD_OUT = {"aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_names_its_hardware(path: Path) -> None:
    config = load_config(path)
    assert path.read_text(encoding="utf-8").startswith("# Hardware: ")
    engine_room = config.rollout.engine["max_model_len"]
    assert config.data.max_prompt_tokens + config.rollout.max_response_tokens <= engine_room


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_papers_recipes_differ_in_nothing_but_the_loss(size: str) -> None:
    maspo = load_config(CONFIGS / f"r1_distill_qwen_{size}_maspo.yaml")
    grpo = load_config(CONFIGS / f"r1_distill_qwen_{size}_grpo.yaml")
    assert (maspo.algorithm.loss.kind, grpo.algorithm.loss.kind) == ("maspo", "clip")
    assert without_loss_and_name(maspo) == without_loss_and_name(grpo)


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_papers_recipes_hold_the_authors_values(size: str) -> None:
    config = load_config(CONFIGS / f"r1_distill_qwen_{size}_maspo.yaml")
    assert config.rollout.prompts_per_step == 1024
    assert config.rollout.prompts_per_step // config.algorithm.mini_batches == 256
    assert config.learner.lr == pytest.approx(4.63e-7)
    assert config.algorithm.kl.coefficient == 0
    assert set(config.data.eval) == HELD_OUT


def test_the_excerpts_are_whole_and_disjoint() -> None:
    fields = RowFields(problem="problem", answer="answer", source="source")
    train = read_rows(str(CONFIGS / "data" / "gsm8k_excerpt.jsonl"), fields)
    heldout = read_rows(str(CONFIGS / "data" / "gsm8k_heldout_excerpt.jsonl"), fields)
    assert (len(train), len(heldout)) == (64, 16)
    assert not {row.problem for row in train} & {row.problem for row in heldout}
    assert {row.source for row in train + heldout} == {"gsm8k"}


def without_loss_and_name(config: TrainConfig) -> dict[str, object]:
    return config.model_dump(exclude={"run": {"name"}, "algorithm": {"loss"}})
