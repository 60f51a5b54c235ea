"""A configuration loads, or one sentence says which key is wrong, what it holds and what to write."""

import re
from pathlib import Path

import pytest

from maspo_dist.config import BapoLoss, CispoLoss, ClipLoss, MaspoLoss, TrainConfig, dump_config, load_config
from maspo_dist.config.learner import LoraConfig
from maspo_dist.config.run import WandbConfig
from maspo_dist.errors import ConfigError

MINIMAL = """
run: {name: test, max_steps: 3}
model: {path: some/model}
data: {train: [train.jsonl]}
rollout: {prompts_per_step: 8, max_response_tokens: 16}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(MINIMAL)
    return file


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_those_of_the_paper(path: Path) -> None:
    loss = load_config(path).algorithm.loss
    assert isinstance(loss, MaspoLoss)
    assert (loss.sigma_base, loss.alpha, loss.sigma_max, loss.beta_pos, loss.beta_neg) == (1.0, 0.3, 10.0, 0.03, 0.03)
    assert (loss.risk_min, loss.risk_max, loss.differentiate_gate, loss.negative_ratio_cap) == (0.1, 10.0, False, None)


def test_an_override_changes_the_kind_of_loss_and_drops_the_other_kinds_keys(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(MINIMAL + "algorithm: {loss: {kind: maspo, alpha: 0.5}}\n")
    loss = load_config(file, ["algorithm.loss.kind=clip", "algorithm.loss.epsilon_high=0.28"]).algorithm.loss
    assert loss == ClipLoss(epsilon_high=0.28)


@pytest.mark.parametrize("section", ["{}", "{loss: {alpha: 0.2}}", "{loss: {kind: maspo, alpha: 0.2}}"])
def test_overrides_of_a_loss_and_of_its_kind_count_in_any_order(tmp_path: Path, section: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(MINIMAL + f"algorithm: {section}\n")
    overrides = ["algorithm.loss.epsilon_high=0.28", "algorithm.loss.kind=clip"]
    for order in (overrides, overrides[::-1]):
        assert load_config(file, order).algorithm.loss == ClipLoss(epsilon_high=0.28)


def test_an_override_with_the_kind_that_the_file_has_leaves_the_files_keys(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(MINIMAL + "algorithm: {loss: {alpha: 0.2}}\n")
    assert load_config(file, ["algorithm.loss.kind=maspo"]).algorithm.loss == MaspoLoss(alpha=0.2)


def test_an_override_that_the_chosen_loss_does_not_have_is_refused(path: Path) -> None:
    message = refusal(path, "algorithm.loss.alpha=0.2", "algorithm.loss.kind=clip")
    assert "algorithm.loss.alpha: no such key (value 0.2)" in message


def test_another_kind_keeps_the_keys_that_all_kinds_of_a_section_have(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        MINIMAL
        + "algorithm: {correction: {kind: tis, upper: 5.0, level: sequence}}\n"
        + "environment: {kind: 'ws://localhost:8000', max_turns: 3}\n"
    )
    overrides = ["algorithm.correction.kind=icepop", "environment.kind=python:games:Wordle"]
    config = load_config(file, overrides)
    correction = config.algorithm.correction
    assert (correction.kind, correction.upper, correction.level) == ("icepop", 5.0, "sequence")
    assert config.environment is not None
    assert (config.environment.kind, config.environment.max_turns) == ("python:games:Wordle", 3)


def test_a_loss_without_a_kind_is_maspo(path: Path) -> None:
    assert load_config(path, ["algorithm.loss.alpha=0"]).algorithm.loss == MaspoLoss(alpha=0)


def test_numbers_in_scientific_notation_are_numbers(path: Path) -> None:
    assert load_config(path, ["learner.lr=5e-7"]).learner.lr == 5e-7


def test_a_correction_may_be_given_by_name(path: Path) -> None:
    assert load_config(path, ["algorithm.correction=tis"]).algorithm.correction.kind == "tis"


def test_the_dumped_configuration_loads_to_an_equal_one(path: Path, tmp_path: Path) -> None:
    config = load_config(path, ["algorithm.loss.kind=bapo", "learner.lr=3e-4"])
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_config(config))
    assert load_config(dumped) == config
    assert isinstance(config.algorithm.loss, BapoLoss)


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("rolout.workers=2", ["rolout", "did you mean rollout?"]),
        ("algorithm.loss.sigma_bse=2", ["algorithm.loss.sigma_bse", "2", "did you mean sigma_base?"]),
        ("learner.zero_stag=1", ["learner.zero_stag", "did you mean zero_stage?"]),
        ("learner.zero_stage=4", ["learner.zero_stage", "4"]),
        ("learner.lr=fast", ["learner.lr", "'fast'", "number"]),
        ("learner.lr=yes", ["learner.lr: must be a number, got True"]),
        ("learner.threads=true", ["learner.threads: must be a number, got True"]),
        ("learner.zero_stage=true", ["learner.zero_stage: must be a number, got True"]),
        ("checkpoint.every=true", ["checkpoint.every: must be a number, got True"]),
        ("checkpoint.every=no", ["checkpoint.every: must be a number, got False"]),
        ("algorithm.entropy_bonus=true", ["algorithm.entropy_bonus: must be a number, got True"]),
        ("algorithm.loss.alpha=true", ["algorithm.loss.alpha: must be a number, got True"]),
        ("logging.prometheus_port=on", ["logging.prometheus_port: must be a number, got True"]),
        ("learner.betas=[0.9,1]", ["learner.betas.1", "less than 1", "got 1"]),
        ("learner.betas=[0.9,1.5]", ["learner.betas.1", "less than 1", "got 1.5"]),
        ("learner.betas=[-0.1,0.9]", ["learner.betas.0", "greater than or equal to 0", "got -0.1"]),
        ("learner.betas=[no,0.9]", ["learner.betas.0", "number", "got False"]),
        ("checkpoint.resume=atuo", ["checkpoint.resume", "'atuo'", "did you mean auto?", "./atuo"]),
        (
            "model={path: m, dtype: float32, attention: flash_attention_2}",
            [
                "model: attention is flash_attention_2",
                "dtype is float32",
                "set attention to auto, or dtype to bfloat16",
            ],
        ),
        ("learner.lr=-1", ["learner.lr", "greater than 0", "-1"]),
        ("rollout.group_size=1", ["rollout.group_size", "greater than or equal to 2", "1"]),
        ("algorithm.loss.sigma_base=0", ["algorithm.loss.sigma_base", "greater than 0"]),
        ("algorithm.loss.sigma_max=0.5", ["sigma_max must be at least sigma_base (1), got 0.5"]),
        ("algorithm.loss.beta_pos=-0.1", ["algorithm.loss.beta_pos", "-0.1"]),
        ("algorithm.loss.kind=ppo", ["'ppo'", "'maspo'"]),
        ("algorithm.mini_batches=1", ["mini_batches", "the ratio is exactly 1", "allow_inert_trust_region: true"]),
        ("algorithm.mini_batches=9", ["algorithm.mini_batches (9)", "rollout.prompts_per_step (8)"]),
        ("rollout.engine.dtype=half", ["engine.dtype", "model.dtype"]),
        ("rollout.engine.runner=pooling", ["engine.runner", "no other key", "remove it here"]),
        ("rollout.engine.worker_extension_cls=x", ["engine.worker_extension_cls", "remove it here"]),
        ("rollout.engine.weight_transfer_config={}", ["engine.weight_transfer_config", "remove it here"]),
        ("rollout.engine.max_num_seqs=1k", ["engine.max_num_seqs must be a whole number of at least 1, got '1k'"]),
        ("rollout.engine.max_num_seqs=-1", ["engine.max_num_seqs", "of at least 1, got -1"]),
        ("rollout.engine.max_num_seqs=null", ["engine.max_num_seqs", "of at least 1, got None"]),
        ("rollout.engine.max_num_seqs=true", ["engine.max_num_seqs", "of at least 1, got True"]),
        ("rollout.engine.gpu_memory_utilization=90", ["gpu_memory_utilization", "above 0 and at most 1, got 90"]),
        ("rollout.engine.gpu_memory_utilization=high", ["gpu_memory_utilization", "at most 1, got 'high'"]),
        ("rollout.engine.gpu_memory_utilization=null", ["gpu_memory_utilization", "at most 1, got None"]),
        ("learner.deepspeed.optimizer={}", ["deepspeed.optimizer", "learner.lr"]),
        ("learner.deepspeed.scheduler={}", ["deepspeed.scheduler", "learner.schedule"]),
        ("learner.deepspeed.bf16.enabled=true", ["deepspeed.bf16", "model.dtype"]),
        ("learner.deepspeed.fp16.enabled=true", ["deepspeed.fp16", "model.dtype"]),
        ("learner.deepspeed.gradient_clipping=2", ["deepspeed.gradient_clipping", "learner.max_grad_norm"]),
        ("learner.deepspeed.train_batch_size=2", ["deepspeed.train_batch_size", "rollout.prompts_per_step"]),
        ("learner.deepspeed.gradient_accumulation_steps=2", ["gradient_accumulation_steps", "micro_batch_tokens"]),
        ("learner.deepspeed.zero_optimization.stage=1", ["zero_optimization.stage", "learner.zero_stage"]),
        ("learner.deepspeed.zero_optimization.offload_param={}", ["offload_param", "learner.offload_parameters"]),
        ("learner.deepspeed.zero_optimization=3", ["deepspeed.zero_optimization must be a section", "got 3"]),
        ("learner.offload_parameters=cpu", ["offload_parameters", "zero_stage 3", "2"]),
        ("data.template=hello", ["template", "{problem}", "'hello'"]),
        ("evaluation.samples=4", ["samples is 4", "raise temperature"]),
        ("sync.transport=carrier", ["sync.transport", "'carrier'"]),
        ("run.name=../x", ["run.name", "'../x'"]),
        ("learner", ["'learner'", "dotted.key=value"]),
        ("run.max_steps.deep=1", ["run.max_steps is a value, not a section"]),
    ],
)
def test_a_mistake_is_one_sentence_with_key_value_and_fix(path: Path, override: str, fragments: list[str]) -> None:
    message = refusal(path, override)
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rollout.workers={min: 2}", "rollout.workers.max: required, but not set"),
        ("rollout.workers={min: 2, max: 3, maxx: 4}", "rollout.workers.maxx: no such key (value 4); did you mean max?"),
        ("rollout.workers={min: 2, max: 1}", "rollout.workers: max must be at least min (2), got 1"),
        ("logging=null", "logging is empty: write keys below it, or remove it"),
        ("data.eval=null", "data.eval is empty: write keys below it, or remove it"),
        ("algorithm.loss=clip", "algorithm.loss must be a section of keys, got 'clip'; write algorithm.loss.kind=clip"),
        ("environment=tools", "environment must be a section of keys, got 'tools'; write environment.kind=tools"),
        ("learner=2", "learner must be a section of keys, got 2"),
    ],
)
def test_a_section_in_another_form_is_refused_with_nothing_but_its_fix(
    path: Path, override: str, sentence: str
) -> None:
    assert refusal(path, override) == sentence


def test_a_key_below_a_section_that_is_null_sets_it(path: Path, tmp_path: Path) -> None:
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_config(load_config(path)))
    overrides = ["learner.lora.rank=8", "logging.wandb.project=p", "environment.tools=python"]
    config = load_config(dumped, overrides)
    assert (config.learner.lora, config.logging.wandb) == (LoraConfig(rank=8), WandbConfig(project="p"))
    assert config.environment is not None
    assert config.environment.tools == ["python"]


@pytest.mark.parametrize("name", ["20260214", "2026-02-14", "007", "1_000", "clip_2"])
def test_a_name_that_looks_like_a_number_or_date_is_text(path: Path, name: str) -> None:
    assert load_config(path, [f"run.name={name}", f"data.eval.{name}=x.jsonl"]).run.name == name


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("run.name=1.10", "run.name: YAML reads 1.1 as a float; write it in quotes"),
        ("run.name=on", "run.name: YAML reads True as a bool; write it in quotes"),
        ("model.path=12", "model.path: YAML reads 12 as a int; write it in quotes"),
        ("model.path=~nobody-here/model", "'~nobody-here/model': there is no such home folder here"),
        ("run.dir=" + "x" * 300, "is too long for a path"),
        ('data.train="a\\0b"', "text holds a null or half a character"),
        ("rollout.engine=&a {b: *a}", "recursive"),
        ("run.seed=!!int ''", "cannot be read as YAML"),
    ],
)
def test_text_that_yaml_takes_for_something_else_is_refused(path: Path, override: str, fragment: str) -> None:
    assert fragment in refusal(path, override)


def test_a_tilde_is_the_home_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = load_config(path, ["run.dir=~/runs", "model.path=~/m", "data.train=[~/a, b]", "data.eval.x=~/c"])
    assert config.run.dir == Path("/home/me/runs")
    assert (config.model.path, config.data.train) == ("/home/me/m", ["/home/me/a", "b"])
    assert config.data.eval == {"x": "/home/me/c"}


def test_one_file_may_stand_where_a_list_is_wanted(path: Path) -> None:
    assert load_config(path, ["data.train=a.jsonl"]).data.train == ["a.jsonl"]


@pytest.mark.parametrize(
    "text", ["a: {b: 1, c: 2, b: 3}\n", "rollout: {}\nrun: {}\nrollout: {workers: 2}\n", "1: a\n1: b\n"]
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(tmp_path: Path, text: str) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    assert re.search(r"twice\.yaml, line \d.* stands twice, in line \d and line \d: remove one", refusal(file))


def test_a_merged_mapping_may_be_overridden(path: Path) -> None:
    path.write_text(MINIMAL + "algorithm: {loss: {<<: &base {kind: clip, epsilon_low: 0.1}, epsilon_low: 0.3}}\n")
    assert load_config(path).algorithm.loss == ClipLoss(epsilon_low=0.3)


def test_cispo_may_be_without_a_lower_bound(path: Path) -> None:
    loss = load_config(path, ["algorithm.loss.kind=cispo", "algorithm.loss.epsilon_low=1000"]).algorithm.loss
    assert loss == CispoLoss(epsilon_low=1000)


def test_an_inert_trust_region_is_accepted_when_asked_for_or_when_ratios_are_stale(path: Path) -> None:
    load_config(path, ["algorithm.mini_batches=1", "algorithm.allow_inert_trust_region=true"])
    load_config(path, ["algorithm.mini_batches=1", "algorithm.max_policy_age=1", "algorithm.old_logprobs=rollout"])
    assert "exactly 1" in refusal(path, "algorithm.mini_batches=1", "algorithm.max_policy_age=1")


def test_alpha_outside_the_papers_range_is_warned_of(path: Path) -> None:
    with pytest.warns(UserWarning, match=r"alpha is 1\.5.*\[0, 1\]"):
        load_config(path, ["algorithm.loss.alpha=1.5"])


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "is empty"),
        ("run: {name: x", "line"),
        ("- a\n- b\n", "holds a list: write sections"),
        ("train", "holds a single value: write sections"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, fragment: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    message = refusal(file)
    assert "broken.yaml" in message
    assert fragment in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nowhere.yaml does not exist" in refusal(tmp_path / "nowhere.yaml")
    assert refusal(tmp_path) == f"config file {tmp_path} is a folder: name a YAML file"
    assert refusal(Path()) == "config file . is a folder: name a YAML file"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_refused_with_the_fix(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(MINIMAL.replace("test", "é"), encoding=encoding)
    assert refusal(file) == f"config file {file} is not UTF-8: save it as UTF-8"


def test_every_missing_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("run: {name: x}\nmodel: {path: m}\ndata: {train: [a]}\n")
    message = refusal(file)
    assert "run.max_steps: required" in message
    assert "rollout: required" in message


def test_every_field_is_documented() -> None:
    """A field carries a `#:` comment above it, or its section's docstring speaks for all of it."""
    source = Path(__file__).parents[2] / "maspo_dist" / "config"
    text = "\n".join(file.read_text() for file in sorted(source.glob("*.py")))
    for name in TrainConfig.model_fields:
        assert name in text
