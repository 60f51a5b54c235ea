"""Options become a configuration, or an error of one sentence."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from maspo_dist.config import EvaluationConfig
from maspo_dist.errors import UserError
from maspo_dist.evaluation.options import eval_config

STEMS = ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench")


def config(
    *,
    data: Sequence[str] = ("aime24.jsonl",),
    preset: str | None = None,
    data_dir: Path | None = None,
    overrides: Sequence[str] = (),
    verifier: str | None = None,
    **sampling: object,
) -> EvaluationConfig:
    options = {
        "model": {"path": "m", "dtype": None},
        "data": {"template": None},
        "sampling": {"samples": 1, **sampling},
        "reward": {"default": verifier},
    }
    return eval_config(options, data=data, preset=preset, data_dir=data_dir, overrides=overrides)


def test_one_response_is_greedy_and_several_are_drawn_at_temperature_1() -> None:
    assert config().sampling.temperature == 0
    assert config(samples=32).sampling.temperature == 1
    assert config(samples=32, temperature=0.6).sampling.temperature == 0.6


def test_sets_are_named_by_hand_or_after_their_files() -> None:
    found = config(
        data=[
            "data/aime24.jsonl",
            "amc=x/amc23.parquet",
            "hf:org/gpqa:test",
            "a/b=c/d.jsonl",
            "hf:openai/gsm8k/main:test",
        ]
    )
    assert found.data.sets == {
        "aime24": "data/aime24.jsonl",
        "amc": "x/amc23.parquet",
        "gpqa": "hf:org/gpqa:test",
        "d": "a/b=c/d.jsonl",
        "gsm8k": "hf:openai/gsm8k/main:test",
    }


def test_the_papers_six_sets_are_found_in_their_folder(tmp_path: Path) -> None:
    for stem in STEMS:
        (tmp_path / f"{stem}.jsonl").touch()
    found = config(data=(), preset="paper", data_dir=tmp_path)
    assert list(found.data.sets) == ["aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"]
    assert "\\boxed{}" in found.data.problem_suffix
    plain = config(data=(), preset="paper", data_dir=tmp_path, overrides=["data.problem_suffix=''"])
    assert plain.data.problem_suffix == ""


def test_files_that_a_preset_lacks_are_named(tmp_path: Path) -> None:
    (tmp_path / "aime24.jsonl").touch()
    with pytest.raises(UserError, match=r"lacks aime25\.jsonl, amc23\.jsonl, math500\.jsonl, minerva\.jsonl, olymp"):
        config(preset="paper", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"samples": 0}, r"sampling\.samples: .* greater than or equal to 1, got 0"),
        ({"samples": 4, "temperature": 0.0}, "samples is 4 at temperature 0, where all responses are equal"),
        ({"verifier": "mth"}, "no verifier is called 'mth'; did you mean math"),
        ({"data": ()}, "nothing to evaluate on: give --data FILE"),
        ({"data": ["a/x.jsonl", "b/x.jsonl"]}, "two data sets are called x"),
        ({"preset": "paper"}, "--preset and --data-dir go together"),
        ({"preset": "papr", "data_dir": Path()}, "--preset papr is not known; known are paper"),
        ({"overrides": ["sampling.smaples=3"]}, "did you mean samples"),
        ({"overrides": ["rollout.engine.seed=3"]}, r"engine\.seed is set by sampling\.seed"),
    ],
)
def test_a_mistake_is_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        config(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
