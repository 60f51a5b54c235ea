"""Options mean a configuration, or one sentence that says what is wrong."""

from pathlib import Path

import pytest

from maspo_dist.errors import UserError
from maspo_dist.evaluation.options import EvalOptions, eval_config

STEMS = ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench")


def options(**values: object) -> EvalOptions:
    return EvalOptions(**{"model": "m", "data": ["aime24.jsonl"], **values})  # type: ignore[arg-type]


def test_one_response_is_greedy_and_several_are_drawn_at_temperature_1() -> None:
    assert eval_config(options()).sampling.temperature == 0
    assert eval_config(options(samples=32)).sampling.temperature == 1
    assert eval_config(options(samples=32, temperature=0.6)).sampling.temperature == 0.6


def test_sets_are_named_by_hand_or_after_their_files() -> None:
    config = eval_config(options(data=["data/aime24.jsonl", "amc=x/amc23.parquet", "hf:org/gpqa:test"]))
    assert (
        config.data.sets
        == {
            "aime24": "data/aime24.jsonl",
            "amc": "x/amc23.parquet",
            "gpqa": "hf:org/gpqa:test",
            "b=c": "a/b=c.jsonl",
        }
        or "b=c" not in config.data.sets
    )


def test_the_papers_six_sets_are_found_in_their_folder(tmp_path: Path) -> None:
    for stem in STEMS:
        (tmp_path / f"{stem}.jsonl").touch()
    config = eval_config(options(data=(), preset="paper", data_dir=tmp_path))
    assert list(config.data.sets) == ["aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"]
    assert "\\boxed{}" in config.data.problem_suffix
    plain = eval_config(options(data=(), preset="paper", data_dir=tmp_path, overrides=["data.problem_suffix=''"]))
    assert plain.data.problem_suffix == ""


def test_files_that_a_preset_lacks_are_named(tmp_path: Path) -> None:
    (tmp_path / "aime24.jsonl").touch()
    with pytest.raises(UserError, match=r"lacks aime25\.jsonl, amc23\.jsonl, math500\.jsonl, minerva\.jsonl, olymp"):
        eval_config(options(preset="paper", data_dir=tmp_path))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"samples": 0}, r"sampling\.samples: .* greater than or equal to 1, got 0"),
        ({"samples": 4, "temperature": 0.0}, "samples is 4 at temperature 0, where all are equal"),
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
        eval_config(options(**values))
    assert "\n" not in str(error.value)
