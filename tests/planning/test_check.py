"""What `check` says of the data: one prompt per source as the model sees it, and what may be wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from doubles.model_kinds import save_experts
from doubles.untrained_demo import save_untrained_demo
from rich.console import Console

from maspo_dist.config import TrainConfig, load_config
from maspo_dist.errors import ConfigError
from maspo_dist.models.facts import read_model_facts
from maspo_dist.planning.check import check_run, learner_notes
from maspo_dist.planning.preflight import require_context

SMOKE = Path(__file__).parents[2] / "configs" / "local_smoke.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_demo(tmp_path_factory.mktemp("check") / "model")


def checked(
    model: Path | str,
    train: Path,
    *,
    lora: bool = False,
    dtype: str = "float32",
    environment: dict[str, object] | None = None,
    verifiers: dict[str, str] | None = None,
    **data: object,
) -> str:
    config = TrainConfig.model_validate(
        {
            "run": {"name": "check", "max_steps": 1},
            "model": {"path": str(model), "dtype": dtype, "device": "cpu"},
            "data": {"train": [str(train)], "max_prompt_tokens": 180, **data},
            "rollout": {"workers": 1, "group_size": 4, "prompts_per_step": 4, "max_response_tokens": 40},
            "algorithm": {"mini_batches": 2},
            "learner": {"lora": {"rank": 8} if lora else None},
            "environment": environment,
            "reward": {"verifiers": verifiers or {}},
        }
    )
    screen = io.StringIO()
    check_run(config, Console(file=screen, width=200, soft_wrap=True))
    return screen.getvalue()


def test_a_model_that_is_elsewhere_is_named_as_it_is_written(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"problem": "1+2", "answer": "3"}) + "\n")
    elsewhere = tmp_path / "shared" / "models" / "na[/x]me"
    assert f"placement and memory: unknown until {elsewhere} can be read" in checked(elsewhere, train)


def test_check_prints_one_prompt_per_source_and_counts_repeats(model: Path, tmp_path: Path) -> None:
    rows = [("1+2\n= ?", "3", "sums"), ("[bold]7", "7", "digits"), ("1+2\n= ?", "4", "sums")]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"problem": p, "answer": a, "source": s}) + "\n" for p, a, s in rows))
    said = checked(model, train, verifiers={"sums": "exact"})
    assert (
        "train, source sums: 2 prompts, scored by exact; the first, 9 tokens:\n  | <|user|>1+2\n  | = ?<|assistant|>\n"
        "train, source digits: 1 prompts, scored by math; the first, 9 tokens:\n  | <|user|>[bold]7<|assistant|>\n"
    ) in said
    assert "note: data set train: 2 of 3 prompts are distinct, so an epoch takes each 1.5 times\n" in said
    assert f"1 prompts have rows with different answers; the first is {train}, line 3: '4' and '3'\n" in said
    assert (
        "note: rollout.prompts_per_step is 4, but data.train has 3 prompts: each step takes some prompts more" in said
    )


def test_check_notes_what_the_template_did_and_shortens_long_prompts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maspo_dist.planning.check._SHOWN_CHARS", 20)
    train = tmp_path / "train.jsonl"
    rows = ({"problem": f"{i}" + "1" * 150 + "2", "answer": "3"} for i in range(5))
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "model"
    folder.symlink_to(model)
    said = checked(folder, train, template="no template: {problem} ½")
    assert "  | no templat … (157 characters) … |unknown|>\n" in said
    assert "  note: the tokenizer does not know 1 parts of the prompt and writes <|unknown|> for them\n" in said
    assert "prompts_per_step is" not in said


def test_check_says_what_adapters_lose_in_bfloat16(model: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"problem": "1+2", "answer": "3"}) + "\n")
    note = "note: learner.lora is set and model.dtype is bfloat16"
    said = checked(model, train, lora=True, dtype="bfloat16")
    assert note in said
    assert "raise learner.lr, or set rollout.lora to adapter" in said
    assert note not in checked(model, train, lora=True)
    assert note not in checked(model, train, dtype="bfloat16")


def test_check_says_what_it_cannot_tell_without_the_model(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"problem": "1+2", "answer": "3"}) + "\n")
    said = checked("/other/machine/model", train)
    assert "placement and memory: unknown until /other/machine/model can be read\n" in said
    assert "to train, this machine still lacks\n  model /other/machine/model\n" in said
    assert "│ train    │ 1 rows  │ ?                   │ ?               │" in said
    said = checked("/other/machine/model", Path("/other/machine/train.jsonl"))
    assert "\n  model /other/machine/model\n  data /other/machine/train.jsonl\n" in said
    assert "│ train    │ not here │ ?                   │ ?               │" in said


def test_check_says_how_many_prompts_open_a_reasoning_block(model: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"problem": problem, "answer": "3"}) + "\n" for problem in ("1+2", "2+1")))
    assert (
        "note: data set train: 2 of 2 prompts leave '<think>' open: a response is judged as if it had written this "
        "tag itself\n"
    ) in checked(model, train, template="{problem} <think>")


@pytest.mark.parametrize(
    ("overrides", "is_noted"),
    [
        (["algorithm.max_policy_age=2"], True),
        (["algorithm.max_policy_age=2", "algorithm.old_logprobs=rollout"], False),
        (["algorithm.max_policy_age=2", "algorithm.loss={kind: clip}"], False),
        ([], False),
    ],
)
def test_maspo_with_recomputed_ratios_from_stale_batches_is_advised_against(
    overrides: list[str], is_noted: bool
) -> None:
    notes = learner_notes(load_config(SMOKE, overrides), None)
    assert any("set algorithm.old_logprobs to rollout" in note for note in notes) is is_noted


def test_check_says_that_learner_and_engines_choose_experts_by_themselves(model: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"problem": "1+2", "answer": "3"}) + "\n")
    experts = save_experts(tmp_path / "experts")
    assert f"note: {experts} is a mixture of experts: learner and engines each choose" in checked(experts, train)
    assert "mixture of experts" not in checked(model, train)


@pytest.mark.parametrize(
    ("environment", "sums", "digits"),
    [
        (
            {"tools": ["python:doubles.own_environments:calc"], "call_format": "calls"},
            "calc('1')<|end|><|user|>1<|assistant|>1<|end|>",
            "calc('1')<|end|><|user|>1<|assistant|>1<|end|>",
        ),
        (
            {"tools": ["python:doubles.own_environments:add"]},
            '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|end|><|user|>1<|assistant|>1<|end|>',
            '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|end|><|user|>1<|assistant|>1<|end|>',
        ),
        (
            {"kind": "python:doubles.own_environments:HigherLower", "max_turns": 3},
            "1<|end|><|user|>higher<|assistant|>Let me think.<|end|><|user|>a number, please<|assistant|><|end|>",
            "1<|end|>",
        ),
        (
            {"kind": "python:doubles.own_environments:Fragile"},
            "1<|end|><|user|>1<|assistant|>Let me think.<|end|>",
            "1<|end|><|user|>1<|assistant|>Let me think.<|end|>",
        ),
    ],
    ids=["calls", "tags", "an environment that ends or goes on", "an environment that fails"],
)
def test_check_prints_a_whole_conversation_per_source(
    model: Path, tmp_path: Path, environment: dict[str, object], sums: str, digits: str
) -> None:
    train = tmp_path / "train.jsonl"
    rows = [("1+2=", "3", "sums"), ("1", "1", "digits"), ("2+2=", "4", "sums")]
    train.write_text("".join(json.dumps({"problem": p, "answer": a, "source": s}) + "\n" for p, a, s in rows))
    said = checked(model, train, environment=environment)
    title = "an example conversation, in which the turns of the model are made up:"
    assert f"train, source sums: {title}\n  | <|user|>1+2=<|assistant|>{sums}\n" in said
    assert f"train, source digits: {title}\n  | <|user|>1<|assistant|>{digits}\n" in said
    assert said.count("fails in turn 2 (step: ValueError") == (2 if "Fragile" in str(environment) else 0)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["evaluation.max_response_tokens=100"],
            r"data\.max_prompt_tokens \(32\) and evaluation\.max_response_tokens \(100\) add up to 132, but "
            r"rollout\.engine\.max_model_len is 128: set it to 132 or remove it",
        ),
        (
            ["evaluation.max_response_tokens=300", "rollout.engine={}"],
            r"evaluation\.max_response_tokens \(300\) add up to 332, but .* holds 256 .*: lower one of them",
        ),
    ],
)
def test_responses_of_an_evaluation_that_do_not_fit_are_refused(
    model: Path, overrides: list[str], sentence: str
) -> None:
    config = load_config(SMOKE, [f"model.path={model}", *overrides])
    size = read_model_facts(config.model).size
    with pytest.raises(ConfigError, match=sentence):
        require_context(config, size)
    require_context(load_config(SMOKE, [f"model.path={model}", *overrides, "evaluation.every=null"]), size)
