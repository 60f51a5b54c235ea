"""A reasoning block that the prompt opens counts as if the response had opened it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from maspo_dist.config import DataConfig, PromptConfig, load_config
from maspo_dist.config.reasoning import REASONING_TAGS, final_reasoning_tag, open_reasoning
from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.data.chat import ChatTemplate
from maspo_dist.data.prompts import load_prompts
from maspo_dist.data.reasoning import mark_open_reasoning
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.models.folder import save_model_folder
from maspo_dist.planning.check import check_run
from maspo_dist.reward import Sample, VerifierPool
from maspo_dist.reward.math.verifier import MathVerifier
from maspo_dist.reward.verifiers.matching import FormatVerifier

CUT = "Perhaps \\boxed{41}. Wait, check it again: if we add 19 and 22 we"


def rows(folder: Path, problem: str = "19+22") -> str:
    path = folder / "sums.jsonl"
    path.write_text(json.dumps({"problem": problem, "answer": "41"}) + "\n")
    return str(path)


def response_start(path: str, chat_template: str, **settings: str) -> str:
    config = load_config_of(path, **settings)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = chat_template
    prompts = load_prompts([path], config, tokenizer).prompts
    return mark_open_reasoning(prompts, config, tokenizer, REASONING_TAGS)[0].response_start


def load_config_of(path: str, **settings: str) -> DataConfig:
    return DataConfig.model_validate({"train": [path], "max_prompt_tokens": 500, **settings})


TURNS = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("ending", "start"),
    [
        ("<|assistant|>", ""),
        ("<|assistant|><think>", "<think>"),
        ("<|assistant|><think>Okay, ", "<think>Okay, "),
        ("<|assistant|><think></think>", ""),
        ("<|assistant|>[THINK]", "[THINK]"),
    ],
)
def test_the_text_that_a_chat_template_adds_for_the_answer_is_asked(tmp_path: Path, ending: str, start: str) -> None:
    template = TURNS + "{% if add_generation_prompt %}" + ending + "{% endif %}"

    assert response_start(rows(tmp_path), template) == start


@pytest.mark.parametrize("settings", [{"system_prompt": "/no_think"}, {"problem_suffix": " /no_think"}])
def test_a_prompt_whose_template_closes_the_block_leaves_none_open(tmp_path: Path, settings: dict[str, str]) -> None:
    """As the templates of Nemotron Nano do, where a message asks for it."""
    asked = "{% set ns = namespace(quick=false) %}{% for m in messages %}{% if '/no_think' in m['content'] %}"
    closed = "{% set ns.quick = true %}{% endif %}{% endfor %}"
    answer = "<|assistant|>{% if ns.quick %}<think></think>{% else %}<think>Hm, {% endif %}"
    template = asked + closed + TURNS + "{% if add_generation_prompt %}" + answer + "{% endif %}"
    assert response_start(rows(tmp_path), template) == "<think>Hm, "
    assert response_start(rows(tmp_path), template, **settings) == ""


def test_a_tag_in_the_problem_opens_nothing(tmp_path: Path) -> None:
    template = TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}"

    assert response_start(rows(tmp_path, "What does <think> mean?"), template) == ""
    assert response_start(rows(tmp_path, "Put it after <think>"), template) == ""


def test_a_plain_prompt_opens_a_block_where_it_ends_with_the_tag(tmp_path: Path) -> None:
    assert response_start(rows(tmp_path), TURNS, template="{problem} So: <think>") == "<think>"
    assert response_start(rows(tmp_path, "19+22 <think>"), TURNS, template="none") == "<think>"
    assert response_start(rows(tmp_path), TURNS, template="Reason in <think>: {problem}") == ""


@pytest.mark.parametrize(("opening", "closing"), REASONING_TAGS.items())
def test_common_tags_are_known(opening: str, closing: str) -> None:
    assert open_reasoning(f"text {opening}\n") == f"{opening}\n"
    assert open_reasoning(f"{opening} a {closing} b") == ""
    assert final_reasoning_tag(f"19+22 {opening.upper()}\n") == f"{opening.upper()}\n"


@pytest.mark.parametrize("start", ["<think>\n", "<|channel|>analysis<|message|>", "[THINK]"])
def test_a_response_that_is_cut_off_in_its_reasoning_has_no_answer(start: str) -> None:
    config = VerifierConfig()

    assert MathVerifier(config).score(Sample(response=start + CUT, reference="41")).status == "unparsed"
    assert FormatVerifier(config).score(Sample(response=start + CUT, reference="41")).status == "wrong"
    assert MathVerifier(config).score(Sample(response=CUT, reference="41")).status == "correct"


def test_the_tags_are_configured() -> None:
    own = VerifierConfig(default="math", reasoning_tags={"{plan}": "{/plan}"}, workers=1)
    with VerifierPool(own) as pool:
        cut, ended, other = pool.verify_many(
            [
                (f"{{plan}} {CUT}", "41"),
                ("{plan} \\boxed{40} {/plan} \\boxed{41}", "41"),
                (f"<think> {CUT}", "41"),
            ]
        )

    assert (cut.status, ended.status, other.status) == ("unparsed", "correct", "correct")


@pytest.mark.parametrize("tags", [{"": "</a>"}, {"<a>": " "}, {"<a>": "<a>"}])
def test_tags_that_can_mark_no_block_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be two different texts that are not blank"):
        VerifierConfig(reasoning_tags=tags)


def test_the_check_counts_such_prompts_and_references_that_cannot_be_read(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TURNS + "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
    save_model_folder(tmp_path / "model", make_model(tokenizer, 0), tokenizer)
    answers = ["41", "N/A", "0.30000000000000004"]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps({"problem": "1+2", "answer": a}) + "\n" for a in answers))
    (tmp_path / "run.yaml").write_text(
        f"run: {{name: a, dir: {tmp_path}, max_steps: 1}}\n"
        f"model: {{path: {tmp_path / 'model'}, dtype: float32, device: cpu}}\n"
        f"data: {{train: [{tmp_path / 'sums.jsonl'}], max_prompt_tokens: 50}}\n"
        "rollout: {prompts_per_step: 2, group_size: 2, max_response_tokens: 8}\nalgorithm: {mini_batches: 2}\n"
    )
    with (tmp_path / "screen").open("w") as screen:
        check_run(load_config(tmp_path / "run.yaml"), Console(file=screen, width=400))
    said = (tmp_path / "screen").read_text()

    assert "3 of 3 prompts leave '<think>' open" in said
    assert "1 of 3 references of source 'sums', read by math: no answer can be read; for example 'N/A'" in said
    assert "holds the noise of a float; for example '0.30000000000000004'" in said


def test_a_template_that_ends_the_text_without_a_turn_by_a_token_of_its_own_still_says_how_a_turn_begins() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{{ messages[0].content }}{{ '<|assistant|><think>\\nOkay, ' if add_generation_prompt else '<|end|>' }}"
    )
    start = ChatTemplate(tokenizer, PromptConfig()).turn_start([{"role": "user", "content": "1"}])
    assert start.endswith("<think>\nOkay, ")
    assert "1" not in start
