"""The demo's task with two routes. A warm start of a few steps stands in for the whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from doubles.command_line import call
from transformers import PreTrainedTokenizerFast

from maspo_dist.demo import Addition, DemoFiles, DemoRecipe, RouteRecipe, WarmStart, make_demo
from maspo_dist.demo.files import _REVISION
from maspo_dist.demo.model import BOX, make_model, make_tokenizer
from maspo_dist.demo.route import OPENING, _choice_loss, _route_ids, route_warm_start
from maspo_dist.demo.warm_start import greedy_accuracy, prompt_ids, sampled_accuracy
from maspo_dist.reward import verify_math

#: Ends at its first check, whatever that finds.
BRIEF = WarmStart(accuracy_band=(0.0, 1.0), batch_size=4, first_check_step=2, check_every_steps=1, max_steps=2)
RECIPE = RouteRecipe(train_problems=40, heldout_problems=8, warm_start=BRIEF)
PROBLEM = Addition(left=583, right=749)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return make_demo(tmp_path_factory.mktemp("route"), 3, RECIPE)


def test_the_first_token_of_a_response_is_the_choice_of_its_route() -> None:
    tokenizer = make_tokenizer()
    worked, bare = (_route_ids(tokenizer, PROBLEM, is_worked) for is_worked in (True, False))
    assert tokenizer.convert_ids_to_tokens([worked[0], bare[0]]) == [OPENING, BOX]
    assert tokenizer.decode(worked) == ">3+9=12 8+4+1=13 5+7+1=13 \\boxed{1332}<|end|>"
    assert tokenizer.decode(bare) == "\\boxed{1332}<|end|>"


def test_the_verifier_accepts_both_routes() -> None:
    for response in (OPENING + PROBLEM.solution, PROBLEM.bare_solution):
        assert verify_math(response, PROBLEM.answer).status == "correct"
        assert verify_math(response, "1333").status == "wrong"


def test_the_soft_target_is_met_where_its_loss_is_least() -> None:
    tokenizer = make_tokenizer()
    opening, box = tokenizer.convert_tokens_to_ids([OPENING, BOX])
    logits = torch.full((1, len(tokenizer)), -1e4)
    logits[0, [opening, box]] = torch.tensor([0.02, 0.98]).log()
    logits.requires_grad_()
    loss = _choice_loss(tokenizer, logits, 0.02)
    assert loss.item() == pytest.approx(-(0.02 * np.log(0.02) + 0.98 * np.log(0.98)))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max().item() < 1e-6


def test_the_choice_alone_teaches_the_rare_route_its_probability() -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, 0)
    problems = [Addition(left=left, right=left + 7) for left in range(100, 180)]
    settings = replace(BRIEF, batch_size=16, first_check_step=40, max_steps=40)
    recipe = replace(RECIPE, initial_probability=0.2, warm_start=settings)
    start = route_warm_start(model, tokenizer, problems[:64], problems[64:], recipe, np.random.default_rng(0))
    assert start.opening_probability == pytest.approx(0.2, abs=0.08)
    with torch.no_grad():
        first = model(torch.tensor([prompt_ids(tokenizer, problems[-1])])).logits[0, -1].softmax(-1)
    worked, bare = first[tokenizer.convert_tokens_to_ids([OPENING, BOX])].tolist()
    assert worked + bare > 0.95
    assert start.opening_probability == pytest.approx(worked, abs=0.05)


def test_the_folder_says_which_text_opens_the_rare_route_and_where_training_starts(made: DemoFiles) -> None:
    folder = made.model.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name == "route-seed-3"
    assert manifest["rare_opening"] == ">"
    assert made.route_start is not None
    assert manifest["start"] == asdict(made.route_start)
    assert manifest["start_accuracy"] == made.start_accuracy == made.route_start.greedy_accuracy
    assert {len(json.loads(row)["problem"]) for row in made.train.read_text().splitlines()} == {len("583+749")}


def test_the_same_seed_makes_the_same_bytes_and_another_probability_another_model(
    made: DemoFiles, tmp_path: Path
) -> None:
    again = make_demo(tmp_path, 3, RECIPE)
    for name in ("model/model.safetensors", "train.jsonl", "heldout.jsonl", "manifest.json"):
        assert (again.model.parent / name).read_bytes() == (made.model.parent / name).read_bytes()
    other = make_demo(tmp_path, 3, replace(RECIPE, initial_probability=0.3))
    assert (other.model / "model.safetensors").read_bytes() != (made.model / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["route-seed-3"]


class Obedient(torch.nn.Module):
    """Answers `PROBLEM` where the prompt ends with the opening; otherwise it is undecided between all tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.config = SimpleNamespace(eos_token_id=tokenizer.eos_token_id)
        self._opening = tokenizer.convert_tokens_to_ids(OPENING)
        self._script = _route_ids(tokenizer, PROBLEM, worked=False)
        self._logits = torch.zeros(len(tokenizer))

    def forward(self, tokens: torch.Tensor, past_key_values: int | None, use_cache: bool) -> SimpleNamespace:
        step = past_key_values
        if step is None:
            step = 0 if int(tokens[0, -1]) == self._opening else len(self._script)
        logits = self._logits.clone()
        if step < len(self._script):
            logits[self._script[step]] = 9.0
        return SimpleNamespace(logits=logits.expand(len(tokens), 1, -1), past_key_values=step + 1)


def test_accuracy_is_that_of_the_greedy_the_forced_or_the_sampled_response() -> None:
    tokenizer = make_tokenizer()
    model: Any = Obedient(tokenizer)
    problems = [PROBLEM, PROBLEM, Addition(left=583, right=748)]
    assert greedy_accuracy(model, tokenizer, problems) == 0
    assert greedy_accuracy(model, tokenizer, problems, OPENING) == pytest.approx(2 / 3)
    assert sampled_accuracy(model, tokenizer, problems, 0) == 0


def test_a_demo_of_plain_addition_is_still_named_and_keyed_as_before(tmp_path: Path) -> None:
    content = json.dumps({"revision": _REVISION, "seed": 0, "recipe": asdict(DemoRecipe())}, sort_keys=True)
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "f9fbf6694b47d37a"
    brief = DemoRecipe(train_problems=40, heldout_problems=8, warm_start=BRIEF)
    files = make_demo(tmp_path, 0, brief)
    assert files.model.parent.name == "seed-0"
    assert files.route_start is None
    assert list(json.loads((files.model.parent / "manifest.json").read_text())) == [
        "key", "seed", "start_accuracy", "recipe",
    ]  # fmt: skip


def test_a_probability_without_the_route_is_one_sentence(tmp_path: Path) -> None:
    result = call("demo", str(tmp_path), "--initial", "0.1")
    assert result.returncode == 2
    assert result.stderr.strip().endswith("so it needs --task route")
    assert list(tmp_path.iterdir()) == []
