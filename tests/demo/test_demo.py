"""The demo: its task, its files, its cache. A warm start of a few steps stands in for the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from maspo_dist.config import DataConfig, load_config
from maspo_dist.data.prompts import load_prompts
from maspo_dist.demo import Addition, DemoRecipe, WarmStart, draw_problems, make_demo, write_config
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.demo.warm_start import warm_start
from maspo_dist.errors import ModelError
from maspo_dist.reward import verify_math

#: Ends at its first check, whatever that finds.
BRIEF = WarmStart(accuracy_band=(0.0, 1.0), batch_size=4, first_check_step=2, check_every_steps=1, max_steps=2)
RECIPE = DemoRecipe(train_problems=40, heldout_problems=8, warm_start=BRIEF)


@pytest.mark.parametrize(
    ("left", "right", "solution"),
    [
        (583, 749, "3+9=12 8+4+1=13 5+7+1=13 \\boxed{1332}"),
        (12, 30, "2+0=2 1+3=4 \\boxed{42}"),
        (5, 105, "5+5=10 0+0+1=1 0+1=1 \\boxed{110}"),
        (0, 0, "0+0=0 \\boxed{0}"),
    ],
)
def test_a_worked_solution_adds_digit_by_digit(left: int, right: int, solution: str) -> None:
    assert Addition(left=left, right=right).solution == solution


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_the_verifier_accepts_the_worked_solution_and_no_other(left: int, right: int) -> None:
    problem = Addition(left=left, right=right)
    assert verify_math(problem.solution, problem.answer).status == "correct"
    assert verify_math(problem.solution, str(left + right + 1)).status == "wrong"


@given(st.integers(0, 2**31), st.integers(0, 300), st.integers(1, 100))
def test_problems_are_distinct_in_either_order(seed: int, train: int, heldout: int) -> None:
    drawn = draw_problems(train, heldout, (2, 3), np.random.default_rng(seed))
    assert [len(part) for part in drawn] == [train, heldout]
    pairs = [frozenset((problem.left, problem.right)) for part in drawn for problem in part]
    assert len(set(pairs)) == len(pairs)


def test_more_problems_than_there_are_is_an_error_not_an_endless_search() -> None:
    with pytest.raises(ValueError, match=r"there are 45"):
        draw_problems(40, 6, (1, 1), np.random.default_rng(0))
    assert sum(map(len, draw_problems(40, 5, (1, 1), np.random.default_rng(0)))) == 45


def test_the_tokenizer_writes_what_it_reads() -> None:
    tokenizer = make_tokenizer()
    solution = Addition(left=583, right=749).solution
    ids = tokenizer.encode(solution, add_special_tokens=False)
    assert tokenizer.decode(ids) == solution
    assert tokenizer.unk_token_id not in ids
    assert len(ids) == 7 + 9 + 9 + len("1332") + 2


def test_the_demo_enters_like_any_model_and_data(tmp_path: Path) -> None:
    files = make_demo(tmp_path, 3, RECIPE)
    tokenizer = AutoTokenizer.from_pretrained(files.model)
    model = AutoModelForCausalLM.from_pretrained(files.model)
    assert (model.config.model_type, model.config.tie_word_embeddings) == ("qwen3", False)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert 0.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 2e6
    sets = [load_prompts([str(path)], DataConfig(train=["-"]), tokenizer) for path in (files.train, files.heldout)]
    assert [len(part.prompts) for part in sets] == [40, 8]
    assert {prompt.source for part in sets for prompt in part.prompts} == {"addition"}
    assert tokenizer.decode(sets[0].prompts[0].token_ids.tolist()).endswith("<|assistant|>")


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    names = ("model/model.safetensors", "train.jsonl", "heldout.jsonl", "manifest.json")
    first, again, other = (
        make_demo(tmp_path / place, seed, RECIPE).model.parent for place, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert all((first / name).read_bytes() != (other / name).read_bytes() for name in names)


def test_a_finished_demo_is_kept_and_another_recipe_replaces_it(tmp_path: Path) -> None:
    files = make_demo(tmp_path, 0, RECIPE)
    written = files.train.stat().st_mtime_ns
    assert make_demo(tmp_path, 0, RECIPE) == files
    assert files.train.stat().st_mtime_ns == written
    make_demo(tmp_path, 0, replace(RECIPE, train_problems=41))
    assert len(files.train.read_text().splitlines()) == 41
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0"]


def test_a_warm_start_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    unreachable = replace(RECIPE, warm_start=replace(BRIEF, accuracy_band=(0.9, 1.0)))
    with pytest.raises(ModelError, match=r"did not reach an accuracy between 0\.9 and 1 in 2 steps"):
        make_demo(tmp_path, 0, unreachable)
    assert list(tmp_path.iterdir()) == []


def test_a_check_above_the_band_goes_back_and_takes_smaller_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.1, 0.9, 0.3])
    weights: list[torch.Tensor] = []

    def accuracy(model: torch.nn.Module, *_: object) -> float:
        weights.append(next(model.parameters()).detach().clone())
        return next(found)

    monkeypatch.setattr("maspo_dist.demo.warm_start.greedy_accuracy", accuracy)
    rng = np.random.default_rng(0)
    train, heldout = draw_problems(20, 4, (2, 3), rng)
    tokenizer = make_tokenizer()
    settings = replace(BRIEF, accuracy_band=(0.28, 0.4), first_check_step=4, check_every_steps=4, max_steps=99)
    assert warm_start(make_model(tokenizer, 0), tokenizer, train, heldout, settings, rng) == 0.3
    below, above, inside = weights
    assert (inside - below).norm() < (above - below).norm()


def test_the_manifest_says_where_training_starts(tmp_path: Path) -> None:
    files = make_demo(tmp_path, 5, RECIPE)
    manifest = json.loads((files.model.parent / "manifest.json").read_text())
    assert manifest["seed"] == 5
    assert manifest["start_accuracy"] == files.start_accuracy


def test_the_demo_brings_the_configuration_of_the_smoke(tmp_path: Path) -> None:
    demo = make_demo(tmp_path / 'a "demo"', 0, RECIPE)
    config = load_config(write_config(demo))
    folder = demo.model.parent.absolute()
    assert (config.model.path, config.data.train) == (str(folder / "model"), [str(folder / "train.jsonl")])
    smoke = load_config(Path(__file__).parents[2] / "configs/local_smoke.yaml")
    of_place = {"run": {"name"}, "model": {"path"}, "data": {"train", "eval"}}
    assert config.model_dump(exclude=of_place) == smoke.model_dump(exclude=of_place)
    assert config.data.eval == {"addition": str(folder / "heldout.jsonl")}
