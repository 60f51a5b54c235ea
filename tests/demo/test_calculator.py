"""The demo's task with a calculator. A warm start of a few steps stands in for the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles.command_line import call

from maspo_dist.config import load_config
from maspo_dist.demo import CALCULATOR, Addition, CalculatorRecipe, WarmStart, make_demo, write_config
from maspo_dist.demo.calculator import OPENING, _parts, calculator_warm_start
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.environments.calculator import calc
from maspo_dist.environments.calls import read_calls
from maspo_dist.environments.tools import load_tools

#: Ends at its first check, whatever that finds.
BRIEF = WarmStart(accuracy_band=(0.0, 1.0), batch_size=4, first_check_step=2, check_every_steps=1, max_steps=2)
RECIPE = CalculatorRecipe(train_problems=40, heldout_problems=8, warm_start=BRIEF)
PROBLEM = Addition(left=583, right=749)


def test_the_calculator_adds_and_refuses_what_is_no_sum() -> None:
    assert calc("583+749") == "1332"
    assert calc("1+2+3") == "6"
    with pytest.raises(ValueError, match="invalid literal"):
        calc("583-749")


def test_the_model_learns_its_own_turns_and_not_the_answer_that_it_hears() -> None:
    tokenizer = make_tokenizer()
    parts = _parts(tokenizer, PROBLEM, is_call=True)
    assert [(tokenizer.decode(ids), is_learned) for ids, is_learned in parts] == [
        ("<|user|>583+749<|assistant|>", False),
        ("calc(583+749)<|end|>", True),
        ("<|user|>1332<|assistant|>", False),
        ("\\boxed{1332}<|end|>", True),
    ]
    worked = _parts(tokenizer, PROBLEM, is_call=False)
    assert tokenizer.decode(worked[1][0]) == "3+9=12 8+4+1=13 5+7+1=13 \\boxed{1332}<|end|>"


def test_what_the_model_writes_is_a_call_of_the_tool() -> None:
    [found] = read_calls(f"{OPENING}583+749)", "calls", ["calc"])
    assert (found.name, found.positional) == ("calc", ("583+749",))


def test_the_choice_alone_teaches_the_call_its_probability() -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, 0)
    problems = [Addition(left=left, right=left + 7) for left in range(100, 180)]
    settings = replace(BRIEF, batch_size=16, first_check_step=80, max_steps=80)
    recipe = replace(RECIPE, initial_probability=0.2, warm_start=settings)
    start = calculator_warm_start(model, tokenizer, problems[:64], problems[64:], recipe, np.random.default_rng(0))
    assert start.call_probability == pytest.approx(0.2, abs=0.1)


def test_the_folder_holds_a_configuration_with_the_tool(tmp_path: Path) -> None:
    made = make_demo(tmp_path, 3, RECIPE)
    assert made.model.parent.name == "calculator-seed-3"
    manifest = json.loads((made.model.parent / "manifest.json").read_text())
    assert manifest["calculator_start"]["greedy_accuracy"] == manifest["start_accuracy"]
    assert make_demo(tmp_path, 3, RECIPE) == made
    config = load_config(write_config(made))
    assert config.environment is not None
    assert config.environment.tools == [CALCULATOR]
    assert [tool.names for tool in load_tools(config.environment)] == [("calc",)]


def test_the_configuration_of_the_smoke_is_that_of_the_folder(tmp_path: Path) -> None:
    folder = load_config(write_config(make_demo(tmp_path, 3, RECIPE)))
    smoke = load_config(Path(__file__).parents[2] / "configs/tools_smoke.yaml")
    assert smoke.environment == folder.environment


def test_an_initial_probability_belongs_to_the_task_with_two_routes(tmp_path: Path) -> None:
    refused = call("demo", str(tmp_path), "--task", "calculator", "--initial", "0.1")
    assert refused.returncode == 2
    assert "--initial is the probability of the rare route, so it needs --task route" in refused.stderr
